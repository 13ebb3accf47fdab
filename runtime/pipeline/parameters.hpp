// What a generation is asked for: defaults filled in, ranges checked. The one place that does.
#pragma once

#include "format/clip_geometry.hpp"
#include "format/model_bundle.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::pipeline {

/// With the kind of attention that the transformer runs, where nobody asks for one: sparse-linear
/// attention if it was trained with that, else dense. Throws Error(invalid_argument) for the other.
AttentionParameters attention_for(AttentionParameters parameters,
                                  const format::Network& transformer);

/// Throws Error(invalid_argument) for values that the model can't do, saying the nearest ones it
/// can.
GenerationParameters resolve(GenerationParameters parameters,
                             const format::GenerationDefaults& defaults,
                             const format::ClipGeometry& geometry);

}  // namespace quantsparse::pipeline
