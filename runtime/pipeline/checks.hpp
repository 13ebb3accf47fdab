// Results that are no pictures are failures, never successes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::pipeline {

/// Throws Error(non_finite) for NaN and infinity. `what` is asked for only when needed: naming the
/// layer reads from the device.
void require_finite(std::span<const float> values, const std::function<std::string()>& what);
void require_finite(std::span<const float> values, const char* what);

/// Whether the pixels of a picture differ at all. `rgb`: [pixels, 3].
bool shows_anything(std::span<const std::uint8_t> rgb);

/// Throws Error(non_finite) for a clip in which no frame shows anything.
[[noreturn]] void refuse_flat_clip();

}  // namespace quantsparse::pipeline
