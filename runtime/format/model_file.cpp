#include "format/model_file.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "format/bit_packing.hpp"
#include "format/config_json.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

const std::string& entry(const std::map<std::string, std::string>& metadata, const char* key,
                         const std::string& where) {
    const auto position = metadata.find(key);
    if (position == metadata.end()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' lacks the metadata entry '{}'; make the file again with "
                                "quantsparse-calibrate",
                                where, key));
    }
    return position->second;
}

const json& component(const json& config, const char* name, const std::string& where) {
    if (!config.contains(name) || !config[name].is_object()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}': the config in its metadata lacks '{}'", where, name));
    }
    return config[name];
}

int bits_of(const json& record, const char* key, std::initializer_list<int> allowed,
            const std::string& where) {
    for (const int bits : allowed) {
        if (record.contains(key) && record[key] == bits) {
            return bits;
        }
    }
    throw Error(ErrorCode::bad_file,
                fmt::format("'{}': {} in its metadata is missing or not one this version knows",
                            where, key));
}

}  // namespace

int hadamard_block(int k) {
    int block = 1;
    while (block < 128 && k % (2 * block) == 0) {
        block *= 2;
    }
    return block;
}

void apply_hadamard(std::span<float> rows, int k, std::span<const float> signs) {
    const auto width = static_cast<std::size_t>(k);
    if (k < 1 || rows.size() % width != 0 || (!signs.empty() && signs.size() != width)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} values and {} signs can't be rotated in rows of {}",
                                rows.size(), signs.size(), k));
    }
    const auto block = static_cast<std::size_t>(hadamard_block(k));
    const float normaliser = 1.0f / std::sqrt(static_cast<float>(block));
    for (std::size_t start = 0; start < rows.size(); start += block) {
        float* values = rows.data() + start;
        for (std::size_t i = 0; i < block; ++i) {
            values[i] *= signs.empty() ? normaliser : normaliser * signs[(start + i) % width];
        }
        for (std::size_t stride = 1; stride < block; stride *= 2) {
            for (std::size_t i = 0; i < block; ++i) {
                if ((i & stride) == 0) {
                    const float a = values[i];
                    const float b = values[i + stride];
                    values[i] = a + b;
                    values[i + stride] = a - b;
                }
            }
        }
    }
}

std::vector<BlockLinear> block_linears(const WanDitConfig& config) {
    std::vector<BlockLinear> linears;
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const auto block = fmt::format("blocks.{}.", layer);
        for (const char* attention : {"self_attn.", "cross_attn."}) {
            for (const char* name : {"q", "k", "v", "o"}) {
                linears.push_back({block + attention + name, config.dim, config.dim});
            }
        }
        linears.push_back({block + "ffn.0", config.ffn_dim, config.dim});
        linears.push_back({block + "ffn.2", config.dim, config.ffn_dim});
    }
    return linears;
}

bool is_input_head(const BlockLinear& linear) {
    const auto is = [&](const char* name) { return linear.name.ends_with(name); };
    return !is("self_attn.k") && !is("self_attn.v") && !is("cross_attn.v");
}

std::vector<std::int64_t> codes_shape(int n, int k, int bits) {
    const std::int64_t columns = packed_n(n);
    return {static_cast<std::int64_t>(packed_word_count(n, k, bits)) / columns, columns};
}

LinearBytes linear_bytes(const Checkpoint& transformer, const WanDitConfig& config) {
    LinearBytes bytes;
    for (const auto& linear : block_linears(config)) {
        bytes.bf16 += 2 * static_cast<std::uint64_t>(linear.out_features) *
                      static_cast<std::uint64_t>(linear.in_features);
        for (const char* part : {".codes", ".scale", ".weight"}) {
            if (const auto* view = transformer.find(linear.name + part)) {
                bytes.stored += view->bytes.size();
            }
        }
        for (const char* part :
             {".channel_scale", ".rotation_signs", ".rotation", ".activation_clip"}) {
            if (const auto* view = transformer.find(linear.name + part)) {
                bytes.input_vectors += view->bytes.size();
            }
        }
    }
    return bytes;
}

std::map<std::string, std::string> model_file_metadata(const ModelBundle& bundle,
                                                       const std::string& quantization_record,
                                                       bool learned_inputs) {
    const json config = {{"transformer", to_json(bundle.transformer_config)},
                         {"text_encoder", to_json(bundle.text_encoder_config)},
                         {"vae", to_json(bundle.vae_config)},
                         {"native_width", bundle.native_width},
                         {"native_height", bundle.native_height},
                         {"native_frames", bundle.native_frames},
                         {"fps", bundle.fps},
                         {"steps", bundle.steps},
                         {"guidance_scale", bundle.guidance_scale},
                         {"flow_shift", bundle.flow_shift}};
    return {{"format", "quantsparse"},
            {"version", std::to_string(learned_inputs ? kModelFileVersion : 1)},
            {"architecture", bundle.architecture},
            {"config", config.dump()},
            {"quantization", quantization_record}};
}

void read_model_file_metadata(const std::map<std::string, std::string>& metadata,
                              const std::string& where, ModelBundle& bundle) {
    const auto& version_text = entry(metadata, "version", where);
    int version = 0;
    const auto* const end = version_text.data() + version_text.size();
    const auto parsed = std::from_chars(version_text.data(), end, version);
    if (parsed.ec != std::errc{} || parsed.ptr != end || version < 1) {
        throw Error(ErrorCode::bad_file, fmt::format("'{}': version '{}' is no version number",
                                                     where, printable(version_text)));
    }
    if (version > kModelFileVersion) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}' is a model file of version {}, newer than the {} this program "
                        "reads; update quantsparse",
                        where, version, kModelFileVersion));
    }
    bundle.architecture = entry(metadata, "architecture", where);
    if (bundle.architecture != kArchitectureWan21T2v) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' holds the unknown architecture '{}'; this version runs {}",
                                where, printable(bundle.architecture), kArchitectureWan21T2v));
    }
    const json config = parse_json_object(entry(metadata, "config", where), where);
    bundle.transformer_config =
        wan_dit_config_from_json(component(config, "transformer", where), where);
    bundle.text_encoder_config =
        umt5_config_from_json(component(config, "text_encoder", where), where);
    bundle.vae_config = wan_vae_config_from_json(component(config, "vae", where), where);
    read_generation_defaults(config, where, bundle);

    bundle.quantization_record = entry(metadata, "quantization", where);
    const json record = parse_json_object(bundle.quantization_record, where);
    bundle.weight_bits = bits_of(record, "weight_bits", {4, 6, 8, 16}, where);
    bundle.activation_bits = bits_of(record, "activation_bits", {6, 8, 16}, where);
    if ((bundle.weight_bits == 16) != (bundle.activation_bits == 16)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' mixes {}-bit weights with {}-bit activations, which this "
                                "version does not run",
                                where, bundle.weight_bits, bundle.activation_bits));
    }
    bundle.quantization = bundle.weight_bits == 16
                              ? "none"
                              : fmt::format("w{}a{}", bundle.weight_bits, bundle.activation_bits);
}

}  // namespace quantsparse::format
