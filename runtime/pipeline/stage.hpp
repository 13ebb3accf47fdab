// What the stages of a generation share. Each has its own Program and memory; they run one after
// another: text encoders, transformers, autoencoder.
#pragma once

#include <functional>
#include <vector>

#include "models/weights.hpp"
#include "program/executor.hpp"
#include "program/plan.hpp"
#include "quantsparse/pipeline.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::pipeline {

using models::Between;
/// Where a stage leaves its operation times when profiling.
using ProfileSink = std::function<void(const std::vector<program::OperationProfile>&)>;

struct StageOptions {
    bool half = false;    ///< float weights as halves
    ProfileSink profile;  ///< set: collect timestamps
};

program::Limits device_limits(const vulkan::Device& device);

void deliver_profile(const StageOptions& options, const program::Executor& executor);

StagePlan stage_plan(const char* name, const program::Program& program,
                     const program::Residency& residency = {});

}  // namespace quantsparse::pipeline
