// What the scheduler's file of a diffusers folder says about sampling.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"

namespace quantsparse::format {

/// Reads scheduler_config.json: the sampler of the class and the flow shift, under the class's own
/// name for it (`shift` or `flow_shift`). What would make other pictures and is not done here is
/// refused; a setting that is not known, or that only changes the solver's details, gives one
/// line in the result, and so does another class in `index`, which is model_index.json. Throws
/// Error(io|bad_file|unsupported) with the file and the key.
std::vector<std::string> read_scheduler_config(const std::filesystem::path& path,
                                               const nlohmann::json& index,
                                               GenerationDefaults& defaults);

}  // namespace quantsparse::format
