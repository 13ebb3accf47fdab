#include "format/config_json.hpp"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

constexpr int kLargestWidth = 1 << 20;  ///< no network here is near; keeps products in 64 bits

[[noreturn]] void reject(const std::string& where, const std::string& what) {
    throw Error(ErrorCode::bad_file, fmt::format("'{}': {}", where, what));
}

/// The first of the spellings that is there and not null.
const json* find(const json& object, std::initializer_list<const char*> keys) {
    for (const char* key : keys) {
        const auto position = object.find(key);
        if (position != object.end() && !position->is_null()) {
            return &*position;
        }
    }
    return nullptr;
}

int checked_integer(const json& value, const char* key, int lowest, int highest,
                    const std::string& where) {
    if (!value.is_number_integer() || value < lowest || value > highest) {
        reject(where, fmt::format("{} is {} where an integer from {} to {} is needed", key,
                                  printable(value.dump()), lowest, highest));
    }
    return value.get<int>();
}

/// An integer under one of several spellings; without a fallback it must be there.
int integer(const json& object, std::initializer_list<const char*> keys, const std::string& where,
            int fallback = -1, int lowest = 1, int highest = kLargestWidth) {
    const json* value = find(object, keys);
    if (value == nullptr) {
        if (fallback < 0) {
            reject(where, fmt::format("the configuration lacks {}", *keys.begin()));
        }
        return fallback;
    }
    return checked_integer(*value, *keys.begin(), lowest, highest, where);
}

bool boolean(const json& object, const char* key, bool fallback, const std::string& where) {
    const json* value = find(object, {key});
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_boolean()) {
        reject(where, fmt::format("{} must be true or false", key));
    }
    return value->get<bool>();
}

std::vector<float> floats(const json& object, const char* key, const std::string& where) {
    const json* value = find(object, {key});
    std::vector<float> result;
    if (value == nullptr) {
        return result;
    }
    if (!value->is_array()) {
        reject(where, fmt::format("{} must be a list of numbers", key));
    }
    for (const auto& entry : *value) {
        if (!entry.is_number() || !std::isfinite(entry.get<float>())) {
            reject(where, fmt::format("{} must be a list of finite numbers", key));
        }
        result.push_back(entry.get<float>());
    }
    return result;
}

void check_class(const json& object, std::initializer_list<const char*> known,
                 const std::string& where) {
    const json* name = find(object, {"_class_name"});
    if (name == nullptr) {
        return;
    }
    for (const char* candidate : known) {
        if (*name == candidate) {
            return;
        }
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' describes {}, an unknown architecture; this version runs Wan2.1 "
                            "text-to-video",
                            where, printable(name->dump())));
}

}  // namespace

json parse_json_object(const std::string& text, const std::string& where) {
    json object = json::parse(text, nullptr, false);
    if (!object.is_object()) {
        reject(where, "it is not a JSON object; the file is damaged");
    }
    return object;
}

double number_or(const json& object, const char* key, double fallback, double lowest,
                 double highest, const std::string& where) {
    const json* value = find(object, {key});
    if (value == nullptr) {
        return fallback;
    }
    if (!value->is_number() || !(value->get<double>() >= lowest) ||
        !(value->get<double>() <= highest)) {
        reject(where, fmt::format("{} is {} where a number from {} to {} is needed", key,
                                  printable(value->dump()), lowest, highest));
    }
    return value->get<double>();
}

void read_generation_defaults(const json& object, const std::string& where, ModelBundle& bundle) {
    const auto whole = [&](const char* key, int fallback, int highest) {
        return integer(object, {key}, where, fallback, 1, highest);
    };
    bundle.native_width = whole("native_width", bundle.native_width, 16384);
    bundle.native_height = whole("native_height", bundle.native_height, 16384);
    bundle.native_frames = whole("native_frames", bundle.native_frames, 4097);
    bundle.steps = whole("steps", bundle.steps, 1000);
    bundle.fps = number_or(object, "fps", bundle.fps, 0.1, 1000, where);
    bundle.guidance_scale =
        number_or(object, "guidance_scale", bundle.guidance_scale, 0, 100, where);
    bundle.flow_shift = number_or(object, "flow_shift", bundle.flow_shift, 1e-3, 1000, where);
}

WanDitConfig wan_dit_config_from_json(const json& object, const std::string& where) {
    check_class(object, {"WanTransformer3DModel", "WanModel"}, where);
    const json* kind = find(object, {"model_type"});
    const bool other_kind = kind != nullptr && *kind != "t2v";
    if (other_kind || find(object, {"image_dim", "added_kv_proj_dim"}) != nullptr) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' describes a model that takes an image; this version runs "
                                "text-to-video models",
                                where));
    }
    WanDitConfig config;
    config.num_heads = integer(object, {"num_heads", "num_attention_heads"}, where, -1, 1, 4096);
    config.dim =
        find(object, {"dim"}) != nullptr
            ? integer(object, {"dim"}, where)
            : config.num_heads * integer(object, {"attention_head_dim"}, where, -1, 1, 256);
    config.ffn_dim = integer(object, {"ffn_dim"}, where);
    config.num_layers = integer(object, {"num_layers"}, where, -1, 1, 1000);
    config.in_dim = integer(object, {"in_dim", "in_channels"}, where, -1, 1, 4096);
    config.out_dim = integer(object, {"out_dim", "out_channels"}, where, config.in_dim, 1, 4096);
    config.text_dim = integer(object, {"text_dim"}, where, config.text_dim);
    config.text_len = integer(object, {"text_len"}, where, config.text_len, 1, 8192);
    config.freq_dim = integer(object, {"freq_dim"}, where, config.freq_dim, 2, 65536);
    config.eps = static_cast<float>(number_or(object, "eps", 1e-6, 1e-12, 1.0, where));
    config.cross_attn_norm = boolean(object, "cross_attn_norm", true, where);
    if (const json* norm = find(object, {"qk_norm"})) {
        if (!norm->is_boolean() && *norm != "rms_norm_across_heads") {
            throw Error(ErrorCode::unsupported,
                        fmt::format("'{}': qk_norm {} is not supported, only rms_norm_across_heads",
                                    where, printable(norm->dump())));
        }
        config.qk_norm = !norm->is_boolean() || norm->get<bool>();
    } else {
        // diffusers writes null for "no norm"; upstream leaves the key out and means true.
        config.qk_norm = !object.contains("qk_norm");
    }
    if (const json* patch = find(object, {"patch_size"})) {
        if (!patch->is_array() || patch->size() != 3) {
            reject(where, "patch_size must be a list of three integers");
        }
        for (std::size_t axis = 0; axis < 3; ++axis) {
            config.patch_size[axis] = checked_integer((*patch)[axis], "patch_size", 1, 16, where);
        }
    }
    const int head_dim = config.dim / config.num_heads;
    if (config.dim % config.num_heads != 0 || head_dim % 2 != 0 || head_dim < 6) {
        reject(where, fmt::format("dim {} can't be split into {} heads of even width", config.dim,
                                  config.num_heads));
    }
    if (config.freq_dim % 2 != 0) {
        reject(where, fmt::format("freq_dim {} must be even", config.freq_dim));
    }
    return config;
}

Umt5Config umt5_config_from_json(const json& object, const std::string& where) {
    check_class(object, {"UMT5EncoderModel", "T5Encoder"}, where);
    const json* kind = find(object, {"model_type"});
    if (kind != nullptr && *kind != "umt5") {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' describes a text encoder of type {}; only umt5 is supported",
                                where, printable(kind->dump())));
    }
    const json* activation = find(object, {"feed_forward_proj"});
    if (activation != nullptr && *activation != "gated-gelu") {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}': feed_forward_proj {} is not supported, only gated-gelu",
                                where, printable(activation->dump())));
    }
    if (boolean(object, "shared_pos", false, where)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}': a shared position bias (T5) is not supported, only UMT5's "
                                "own bias per layer",
                                where));
    }
    Umt5Config config;
    config.vocab_size = integer(object, {"vocab_size", "vocab"}, where, -1, 3, 1 << 24);
    config.dim = integer(object, {"dim", "d_model"}, where);
    config.num_heads = integer(object, {"num_heads"}, where, -1, 1, 4096);
    config.dim_attn = find(object, {"dim_attn"}) != nullptr
                          ? integer(object, {"dim_attn"}, where)
                          : config.num_heads * integer(object, {"d_kv"}, where, -1, 1, 4096);
    config.dim_ffn = integer(object, {"dim_ffn", "d_ff"}, where);
    config.num_layers = integer(object, {"num_layers"}, where, -1, 1, 1000);
    config.num_buckets = integer(object, {"num_buckets", "relative_attention_num_buckets"}, where,
                                 config.num_buckets, 4, 4096);
    config.max_distance =
        integer(object, {"max_dist", "max_distance", "relative_attention_max_distance"}, where,
                config.max_distance, 2, 1 << 20);
    config.text_len = integer(object, {"text_len"}, where, config.text_len, 1, 8192);
    if (config.dim_attn % config.num_heads != 0) {
        reject(where, fmt::format("dim_attn {} can't be split into {} heads", config.dim_attn,
                                  config.num_heads));
    }
    return config;
}

void set_released_latent_statistics(WanVaeConfig& config) {
    config.latents_mean = {-0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,
                           -0.1517f, 1.5508f,  0.4134f,  -0.0715f, 0.5517f,  -0.3632f,
                           -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
    config.latents_std = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
                          3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f};
}

WanVaeConfig wan_vae_config_from_json(const json& object, const std::string& where) {
    check_class(object, {"AutoencoderKLWan", "WanVAE_", "WanVAE"}, where);
    WanVaeConfig config;
    config.dim = integer(object, {"dim", "base_dim"}, where, config.dim, 2, 4096);
    config.z_dim = integer(object, {"z_dim"}, where, config.z_dim, 1, 1024);
    config.num_res_blocks =
        integer(object, {"num_res_blocks"}, where, config.num_res_blocks, 1, 16);
    if (const json* mult = find(object, {"dim_mult"})) {
        if (!mult->is_array() || mult->empty() || mult->size() > 8) {
            reject(where, "dim_mult must be a list of one to eight integers");
        }
        config.dim_mult.clear();
        for (const auto& entry : *mult) {
            config.dim_mult.push_back(checked_integer(entry, "dim_mult", 1, 64, where));
        }
    }
    if (const json* down = find(object, {"temperal_downsample", "temporal_downsample"})) {
        if (!down->is_array()) {
            reject(where, "temperal_downsample must be a list of true and false");
        }
        config.temporal_downsample.clear();
        for (const auto& entry : *down) {
            if (!entry.is_boolean()) {
                reject(where, "temperal_downsample must be a list of true and false");
            }
            config.temporal_downsample.push_back(entry.get<bool>());
        }
    }
    if (config.temporal_downsample.size() + 1 != config.dim_mult.size()) {
        reject(where, "temperal_downsample must have one entry fewer than dim_mult");
    }
    const json* scales = find(object, {"attn_scales"});
    if (scales != nullptr && !(scales->is_array() && scales->empty())) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}': attn_scales other than an empty list is not supported", where));
    }
    config.latents_mean = floats(object, "latents_mean", where);
    config.latents_std = floats(object, "latents_std", where);
    if (config.latents_mean.empty() && config.latents_std.empty() && config.z_dim == 16) {
        set_released_latent_statistics(config);
    }
    const auto channels = static_cast<std::size_t>(config.z_dim);
    if (config.latents_mean.size() != channels || config.latents_std.size() != channels) {
        reject(where, fmt::format("latents_mean and latents_std must have z_dim = {} values each",
                                  config.z_dim));
    }
    for (const float deviation : config.latents_std) {
        if (!(deviation > 0)) {
            reject(where, "latents_std must be positive");
        }
    }
    return config;
}

json to_json(const WanDitConfig& config) {
    return {{"_class_name", "WanModel"},
            {"model_type", "t2v"},
            {"dim", config.dim},
            {"ffn_dim", config.ffn_dim},
            {"num_heads", config.num_heads},
            {"num_layers", config.num_layers},
            {"in_dim", config.in_dim},
            {"out_dim", config.out_dim},
            {"text_dim", config.text_dim},
            {"text_len", config.text_len},
            {"freq_dim", config.freq_dim},
            {"patch_size", config.patch_size},
            {"eps", config.eps},
            {"qk_norm", config.qk_norm},
            {"cross_attn_norm", config.cross_attn_norm}};
}

json to_json(const Umt5Config& config) {
    return {{"vocab", config.vocab_size},        {"dim", config.dim},
            {"dim_attn", config.dim_attn},       {"dim_ffn", config.dim_ffn},
            {"num_heads", config.num_heads},     {"num_layers", config.num_layers},
            {"num_buckets", config.num_buckets}, {"max_dist", config.max_distance},
            {"text_len", config.text_len},       {"shared_pos", false}};
}

json to_json(const WanVaeConfig& config) {
    return {{"dim", config.dim},
            {"z_dim", config.z_dim},
            {"dim_mult", config.dim_mult},
            {"num_res_blocks", config.num_res_blocks},
            {"temperal_downsample", config.temporal_downsample},
            {"attn_scales", json::array()},
            {"latents_mean", config.latents_mean},
            {"latents_std", config.latents_std}};
}

}  // namespace quantsparse::format
