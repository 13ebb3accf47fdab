// Results that are no pictures are failures, never successes.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::pipeline {

/// Throws Error(non_finite) for NaN and infinity. `what` is asked for only when needed: naming the
/// layer reads from the device.
void require_finite(std::span<const float> values, const std::function<std::string()>& what);
void require_finite(std::span<const float> values, const char* what);

/// Throws Error(non_finite) for a clip in which no frame shows anything.
void require_picture(const Video& video);

}  // namespace quantsparse::pipeline
