// What adapters say about how they were trained.
#pragma once

#include <string>
#include <vector>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::pipeline {

/// A line about each adapter whose header names settings for few steps (`few_step.sampler`,
/// `.timesteps`, `.flow_shift`, `.guidance_scale`) that the run doesn't have.
std::vector<std::string> training_hints(const GenerationParameters& resolved);

}  // namespace quantsparse::pipeline
