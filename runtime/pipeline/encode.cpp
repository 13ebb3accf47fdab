#include "pipeline/encode.hpp"

#include "models/registry.hpp"

namespace quantsparse::pipeline {

models::TextStates encode_tokens(vulkan::Device& device, const format::Component& component,
                                 const std::vector<int>& ids, int valid,
                                 const StageOptions& options, const Between& between) {
    // The valid tokens alone give the same rows as the padded, masked sequence (umt5 fact 28).
    program::Program program(device_limits(device));
    const auto encoder = models::text_encoder_kind(component.network)
                             .make(program, component.network, valid, valid, options.half);
    program::Executor executor(device, program, static_cast<bool>(options.profile));
    auto states = encoder->encode(executor, *component.checkpoint,
                                  {ids.begin(), ids.begin() + valid}, between);
    deliver_profile(options, executor);
    return states;
}

}  // namespace quantsparse::pipeline
