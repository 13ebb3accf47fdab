// What a model says of itself before anything is run.
#pragma once

#include "format/model_bundle.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::pipeline {

ModelSummary summary_of(const format::ModelBundle& bundle, const Recipe& recipe);

}  // namespace quantsparse::pipeline
