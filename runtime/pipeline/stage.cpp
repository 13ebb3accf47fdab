#include "pipeline/stage.hpp"

#include "vulkan/arena.hpp"

namespace quantsparse::pipeline {

program::Limits device_limits(const vulkan::Device& device) {
    const auto& capabilities = device.capabilities();
    program::Limits limits =
        program::limits_of(capabilities.info, capabilities.storage_alignment, device.arithmetic());
    if (device.tuning() && device.tuning()->arithmetic == device.arithmetic()) {
        limits.product_lanes = device.tuning()->product_lanes;
        limits.product_rows = device.tuning()->product_rows;
        limits.preferred_matrix_tile = device.tuning()->matrix_tile;
    }
    return limits;
}

void deliver_profile(const StageOptions& options, const program::Executor& executor) {
    if (options.profile) options.profile(executor.profile());
}

StagePlan stage_plan(const char* name, const program::Program& program,
                     const program::Residency& residency) {
    using Kind = program::StreamGroup::Kind;
    const program::Plan plan = program::make_plan(program, residency);
    StagePlan stage;
    stage.stage = name;
    stage.weight_bytes = plan.constant_bytes;
    stage.residual_bytes = plan.device_bytes_of_kind[static_cast<std::size_t>(Kind::residuals)];
    stage.activation_bytes = plan.working_bytes - stage.residual_bytes;
    stage.staging_bytes = vulkan::Arena::kStagingBytes;
    stage.largest_binding_bytes = plan.largest_binding_bytes;
    stage.operations = program.operations().size();
    for (const std::uint64_t bytes : plan.host_bytes_of_kind) stage.host_bytes += bytes;
    stage.residency = program::describe(program, residency);
    return stage;
}

}  // namespace quantsparse::pipeline
