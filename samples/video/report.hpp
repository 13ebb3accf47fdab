// Tables and JSON: devices, memory plan, profile, and how a clip was made.
#pragma once

#include <string>
#include <vector>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::video {

std::string devices_table(const std::vector<DeviceInfo>& devices);

std::string plan_table(const MemoryPlan& plan, const StepCounts& steps,
                       const GenerationParameters& parameters);
std::string plan_json(const MemoryPlan& plan, const StepCounts& steps,
                      const GenerationParameters& parameters);

std::string profile_table(const std::vector<OperationTime>& operations,
                          const std::vector<StageTime>& stages,
                          const std::vector<AttentionLayer>& attention);
std::string profile_json(const std::vector<OperationTime>& operations,
                         const std::vector<StageTime>& stages,
                         const std::vector<AttentionLayer>& attention, const DeviceInfo& device);

/// The parameters that made a clip, as one line of JSON for the file's metadata.
std::string generation_record(const GenerationParameters& parameters, const ModelSummary& model,
                              const std::string& model_name);

/// "1.50 GiB", "20.0 MiB", "512 B".
std::string bytes_text(std::uint64_t bytes);

}  // namespace quantsparse::video
