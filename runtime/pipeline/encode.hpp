// Text encoding: token ids to the rows a transformer takes.
#pragma once

#include <vector>

#include "format/model_bundle.hpp"
#include "models/text_encoder.hpp"
#include "pipeline/stage.hpp"

namespace quantsparse::pipeline {

/// States of the first `valid` of `ids`; its rows are empty when cancelled.
models::TextStates encode_tokens(vulkan::Device& device, const format::Component& encoder,
                                 const std::vector<int>& ids, int valid,
                                 const StageOptions& options, const Between& between = {});

}  // namespace quantsparse::pipeline
