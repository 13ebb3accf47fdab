// A clip's parameters of the C interface as those of the runtime.
#pragma once

#include "quantsparse.h"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::c {

/// Throws Error(invalid_argument) with the field.
GenerationParameters parameters_of(const qs_generation* generation);

qs_sampler sampler_of(Sampler sampler);

}  // namespace quantsparse::c
