// What GenerationParameters say about sampling: presets, what goes together, and the sampler's
// options.
#pragma once

#include "quantsparse/pipeline.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::pipeline {

/// Sets the sampler, `own` where nothing else says one, and what the preset `few_steps` and lists
/// of levels mean. Throws Error(invalid_argument) with the field for lists that don't fall, and for
/// what contradicts the preset or does not go together; other ranges are checked before.
GenerationParameters with_sampling_set(GenerationParameters p, Sampler own = Sampler::unipc);

/// `p`: resolved.
sampling::SamplerOptions sampler_options(const GenerationParameters& p);

}  // namespace quantsparse::pipeline
