// Whatever a model's files hold that is not used: harmless and known to be, named in a warning, or
// a reason to refuse the file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "format/checkpoint.hpp"
#include "format/network.hpp"

namespace quantsparse::format {

/// Of a network in one of the layouts of others. Throws Error(unsupported) for tensors without
/// which the file would mean another network: weights nobody knows, what looks like a part of a
/// weight's value, blocks beyond the configuration's. Appends a line to `warnings` for what is
/// left.
void check_unused_tensors(const Checkpoint& checkpoint, const Network& network,
                          const NetworkKind& kind, const std::string& title,
                          std::vector<std::string>& warnings);

/// Throws Error(bad_file) naming the weight matrices that hold nothing but zeros, as unfinished
/// downloads do.
void check_zero_weights(const Checkpoint& checkpoint, const Network& network,
                        const std::string& title);

/// Appends a line for keys of a configuration that nobody reads and nobody is known to need.
void check_unused_keys(const nlohmann::json& config, const NetworkKind& kind,
                       const std::string& where, std::vector<std::string>& warnings);

/// What a file is that holds no network of the kind asked for, to follow its name: "holds a LoRA,
/// …"; empty where nothing is recognised.
std::string what_network(const std::vector<std::string>& names);

}  // namespace quantsparse::format
