// The three networks' configurations to and from JSON.
//
// Reads both spellings met on disk: upstream's own (Wan2.1 config.json: dim, in_dim, ...) and
// diffusers' or Transformers' (num_attention_heads, in_channels, d_model, ...). Writes upstream's
// own.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "format/checkpoint.hpp"
#include "format/model_config.hpp"

namespace quantsparse::format {

/// Throw Error(bad_file) naming `where` and the field for a missing or senseless value, and
/// Error(unsupported) for another architecture (unknown `_class_name`, image-to-video, ...).
WanDitConfig wan_dit_config_from_json(const nlohmann::json& json, const std::string& where);
Umt5Config umt5_config_from_json(const nlohmann::json& json, const std::string& where);
WanVaeConfig wan_vae_config_from_json(const nlohmann::json& json, const std::string& where);

nlohmann::json to_json(const WanDitConfig& config);
nlohmann::json to_json(const Umt5Config& config);
nlohmann::json to_json(const WanVaeConfig& config);

/// An optional number in [lowest, highest]; `fallback` when the key is absent or null.
double number_or(const nlohmann::json& json, const char* key, double fallback, double lowest,
                 double highest, const std::string& where);

/// Native size, fps, steps, guidance and shift, where the object has them (all optional).
void read_generation_defaults(const nlohmann::json& json, const std::string& where,
                              ModelBundle& bundle);

/// Parses a JSON object. Throws Error(bad_file) naming `where`.
nlohmann::json parse_json_object(const std::string& text, const std::string& where);

/// The released VAE's per-channel latent statistics (wan/modules/vae.py), for files without a
/// config.
void set_released_latent_statistics(WanVaeConfig& config);

}  // namespace quantsparse::format
