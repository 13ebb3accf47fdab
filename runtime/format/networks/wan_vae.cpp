#include "format/networks/wan_vae.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/json_fields.hpp"
#include "format/networks/names.hpp"
#include "format/networks/shapes.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

constexpr std::array<Rename, 5> kVaeResidual = {{
    {"norm1.", "residual.0."},
    {"conv1.", "residual.2."},
    {"norm2.", "residual.3."},
    {"conv2.", "residual.6."},
    {"conv_shortcut.", "shortcut."},
}};

constexpr std::array<Rename, 8> kVaeTop = {{
    {"quant_conv.", "conv1."},
    {"post_quant_conv.", "conv2."},
    {"encoder.conv_in.", "encoder.conv1."},
    {"decoder.conv_in.", "decoder.conv1."},
    {"encoder.norm_out.", "encoder.head.0."},
    {"decoder.norm_out.", "decoder.head.0."},
    {"encoder.conv_out.", "encoder.head.2."},
    {"decoder.conv_out.", "decoder.head.2."},
}};

/// resnets.0, attentions.0, resnets.1 are middle.0, .1, .2.
void rename_middle(std::string& name, std::string_view network) {
    const std::string start = std::string(network) + ".mid_block.";
    if (!name.starts_with(start)) {
        return;
    }
    std::string_view rest = std::string_view(name).substr(start.size());
    const bool attention = rest.starts_with("attentions.");
    if (!attention && !rest.starts_with("resnets.")) {
        return;
    }
    rest.remove_prefix(attention ? 11 : 8);
    const int index = take_number(rest);
    if (index < 0) {
        return;
    }
    std::string tail(rest);
    if (!attention) {
        rename_start(tail, kVaeResidual);
    }
    name = std::string(network) + ".middle." + std::to_string(2 * index + (attention ? 1 : 0)) +
           "." + tail;
}

/// Upstream keeps the decoder's up path in one flat list, diffusers in stages (wan fact 23).
std::string from_diffusers_vae(std::string name, int stage_length) {
    if (rename_in_list(name, "encoder.down_blocks.", "encoder.downsamples.", kVaeResidual)) {
        return name;
    }
    constexpr std::string_view kUp = "decoder.up_blocks.";
    if (name.starts_with(kUp)) {
        std::string_view rest = std::string_view(name).substr(kUp.size());
        const int stage = take_number(rest);
        int flat = -1;
        if (rest.starts_with("resnets.")) {
            rest.remove_prefix(8);
            flat = stage * stage_length + take_number(rest);
        } else if (rest.starts_with("upsamplers.0.")) {
            rest.remove_prefix(13);
            flat = stage * stage_length + stage_length - 1;
        } else {
            // The published conversion script leaves shortcuts it does not know at the flat index.
            flat = stage;
        }
        std::string tail(rest);
        rename_start(tail, kVaeResidual);
        return "decoder.upsamples." + std::to_string(flat) + "." + tail;
    }
    rename_middle(name, "encoder");
    rename_middle(name, "decoder");
    rename_start(name, kVaeTop);
    return name;
}

Renamer renamer(const std::vector<std::string>& names) {
    bool upstream = true;
    for (const auto& name : names) {
        for (const std::string_view start :
             {"encoder.down_blocks.", "decoder.up_blocks.", "decoder.mid_block.",
              "post_quant_conv.", "quant_conv."}) {
            upstream = upstream && !name.starts_with(start);
        }
    }
    int last_block = -1;
    constexpr std::string_view kFirstStage = "decoder.up_blocks.0.resnets.";
    for (const auto& name : names) {
        if (name.starts_with(kFirstStage)) {
            std::string_view rest = std::string_view(name).substr(kFirstStage.size());
            last_block = std::max(last_block, take_number(rest));
        }
    }
    // Residual blocks and the upsampler; the released model's where the names don't tell.
    const int stage_length = last_block >= 0 ? last_block + 2 : 4;
    return [=](std::string_view name) -> std::optional<std::string> {
        return upstream ? std::string(name) : from_diffusers_vae(std::string(name), stage_length);
    };
}

/// Wan2.2's VAE and others share the class and differ in these.
void check_is_of_wan21(const json& object, const std::string& where) {
    const std::initializer_list<std::pair<const char*, json>> usual = {
        {"is_residual", false}, {"patch_size", 1}, {"in_channels", 3}, {"out_channels", 3}};
    for (const auto& [key, value] : usual) {
        const json* found = find_field(object, {key});
        if (found != nullptr && *found != value) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("'{}': {} is {}, as of Wan2.2's or an upscaling VAE, which is "
                                    "not supported; use Wan2.1's VAE",
                                    where, key, printable(found->dump())));
        }
    }
}

WanVaeConfig config_of(const json& object, const std::string& where) {
    check_class(object, {"AutoencoderKLWan", "WanVAE_", "WanVAE"}, where);
    WanVaeConfig config;
    config.dim = integer(object, {"dim", "base_dim"}, where, config.dim, 2, 4096);
    config.z_dim = integer(object, {"z_dim"}, where, config.z_dim, 1, 1024);
    config.num_res_blocks =
        integer(object, {"num_res_blocks"}, where, config.num_res_blocks, 1, 16);
    if (const json* mult = find_field(object, {"dim_mult"})) {
        if (!mult->is_array() || mult->empty() || mult->size() > 8) {
            reject(where, "dim_mult must be a list of one to eight integers");
        }
        config.dim_mult.clear();
        for (const auto& entry : *mult) {
            config.dim_mult.push_back(checked_integer(entry, "dim_mult", 1, 64, where));
        }
    }
    if (const json* down = find_field(object, {"temperal_downsample", "temporal_downsample"})) {
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
    check_is_of_wan21(object, where);
    const json* scales = find_field(object, {"attn_scales"});
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

void add_residual(TensorList& list, const std::string& name, int in, int out) {
    list.add(name + ".residual.0.gamma", {in, 1, 1, 1});
    list.with_bias(name + ".residual.2", {out, in, 3, 3, 3});
    list.add(name + ".residual.3.gamma", {out, 1, 1, 1});
    list.with_bias(name + ".residual.6", {out, out, 3, 3, 3});
    if (in != out) {
        list.with_bias(name + ".shortcut", {out, in, 1, 1, 1});
    }
}

void add_middle(TensorList& list, const std::string& network, int width) {
    add_residual(list, network + ".middle.0", width, width);
    list.add(network + ".middle.1.norm.gamma", {width, 1, 1});
    list.with_bias(network + ".middle.1.to_qkv", {3 * width, width, 1, 1});
    list.with_bias(network + ".middle.1.proj", {width, width, 1, 1});
    add_residual(list, network + ".middle.2", width, width);
}

void add_decoder(TensorList& list, const WanVaeConfig& config) {
    const int stages = static_cast<int>(config.dim_mult.size());
    int width = config.dim * config.dim_mult.back();
    list.with_bias("conv2", {config.z_dim, config.z_dim, 1, 1, 1});
    list.with_bias("decoder.conv1", {width, config.z_dim, 3, 3, 3});
    add_middle(list, "decoder", width);
    int index = 0;
    for (int stage = 0; stage < stages; ++stage) {
        const int out = config.dim * config.dim_mult[static_cast<std::size_t>(stages - 1 - stage)];
        // The upsampler before stages 1 to 3 halved the channels (wan fact 19).
        int in = stage >= 1 && stage <= 3 ? width / 2 : width;
        for (int block = 0; block <= config.num_res_blocks; ++block) {
            add_residual(list, fmt::format("decoder.upsamples.{}", index++), in, out);
            in = out;
        }
        width = out;
        if (stage + 1 < stages) {
            const auto name = fmt::format("decoder.upsamples.{}", index++);
            list.with_bias(name + ".resample.1", {out / 2, out, 3, 3});
            // The list is the encoder's, reversed: its last entry is the decoder's first.
            if (config.temporal_downsample[static_cast<std::size_t>(stages - 2 - stage)]) {
                list.with_bias(name + ".time_conv", {2 * out, out, 3, 1, 1});
            }
        }
    }
    list.add("decoder.head.0.gamma", {width, 1, 1, 1});
    list.with_bias("decoder.head.2", {3, width, 3, 3, 3});
}

void add_encoder(TensorList& list, const WanVaeConfig& config) {
    const std::size_t stages = config.dim_mult.size();
    int width = config.dim;
    list.with_bias("encoder.conv1", {width, 3, 3, 3, 3});
    int index = 0;
    for (std::size_t stage = 0; stage < stages; ++stage) {
        const int out = config.dim * config.dim_mult[stage];
        for (int block = 0; block < config.num_res_blocks; ++block) {
            add_residual(list, fmt::format("encoder.downsamples.{}", index++), width, out);
            width = out;
        }
        if (stage + 1 < stages) {
            const auto name = fmt::format("encoder.downsamples.{}", index++);
            list.with_bias(name + ".resample.1", {out, out, 3, 3});
            if (config.temporal_downsample[stage]) {
                list.with_bias(name + ".time_conv", {out, out, 3, 1, 1});
            }
        }
    }
    add_middle(list, "encoder", width);
    list.add("encoder.head.0.gamma", {width, 1, 1, 1});
    list.with_bias("encoder.head.2", {2 * config.z_dim, width, 3, 3, 3});
    list.with_bias("conv1", {2 * config.z_dim, 2 * config.z_dim, 1, 1, 1});
}

/// The decoder and what stands before it; with `encoder` everything.
std::vector<TensorSpec> tensors_of(const WanVaeConfig& config, bool encoder) {
    TensorList list;
    add_decoder(list, config);
    if (encoder) {
        add_encoder(list, config);
    }
    return list.take();
}

json config_json(const WanVaeConfig& config) {
    return {{"dim", config.dim},
            {"z_dim", config.z_dim},
            {"dim_mult", config.dim_mult},
            {"num_res_blocks", config.num_res_blocks},
            {"temperal_downsample", config.temporal_downsample},
            {"attn_scales", json::array()},
            {"latents_mean", config.latents_mean},
            {"latents_std", config.latents_std}};
}

json infer(const Checkpoint& checkpoint) {
    WanVaeConfig config;
    config.dim = dimension(checkpoint, "decoder.head.0.gamma", 0);
    config.z_dim = dimension(checkpoint, "conv2.weight", 0);
    if (config.z_dim != 16) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' has {} latent channels and no config.json beside it with "
                                "latents_mean and latents_std",
                                checkpoint.path().string(), config.z_dim));
    }
    set_released_latent_statistics(config);
    return config_json(config);
}

int factor_of(const std::vector<bool>& doubles) {
    return 1 << std::count(doubles.begin(), doubles.end(), true);
}

}  // namespace

void set_released_latent_statistics(WanVaeConfig& config) {
    config.latents_mean = {-0.7571f, -0.7089f, -0.9113f, 0.1075f,  -0.1745f, 0.9653f,
                           -0.1517f, 1.5508f,  0.4134f,  -0.0715f, 0.5517f,  -0.3632f,
                           -0.1922f, -0.9497f, 0.2503f,  -0.2921f};
    config.latents_std = {2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
                          3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f};
}

Network describe_wan_vae(const WanVaeConfig& config, bool encoder) {
    Network network;
    network.kind = "wan-vae";
    network.config = config;
    network.geometry.in_channels = network.geometry.out_channels = config.z_dim;
    network.geometry.space = 1 << (config.dim_mult.size() - 1);
    network.geometry.time = factor_of(config.temporal_downsample);
    network.tensors = tensors_of(config, encoder);
    return network;
}

NetworkKind wan_vae_kind() {
    NetworkKind kind;
    kind.name = "wan-vae";
    kind.prefixes = {"", "first_stage_model.", "vae."};
    kind.marks = {{"decoder.middle.0.residual.0.gamma"},
                  {"decoder.mid_block.resnets.0.norm1.gamma"}};
    // Whose use is training, and the encoder where a file has a part of it.
    kind.harmless = {"loss.", "discriminator.", "encoder.", "conv1."};
    kind.config_keys = {"dim",
                        "base_dim",
                        "z_dim",
                        "num_res_blocks",
                        "dim_mult",
                        "temperal_downsample",
                        "temporal_downsample",
                        "attn_scales",
                        "latents_mean",
                        "latents_std",
                        "is_residual",
                        "patch_size",
                        "in_channels",
                        "out_channels",
                        "dropout",
                        "scale_factor_spatial",
                        "scale_factor_temporal",
                        "clip_output",
                        "torch_dtype"};
    kind.describe = [](const json& object, const Checkpoint* checkpoint, const std::string& where) {
        if (checkpoint != nullptr && checkpoint->find("decoder.head.2.bias") != nullptr &&
            dimension(*checkpoint, "decoder.head.2.bias", 0) != 3) {
            throw Error(
                ErrorCode::unsupported,
                fmt::format("'{}' draws {} values per pixel, as an upscaling VAE or that of "
                            "Wan2.2 does, which is not supported; use Wan2.1's VAE",
                            checkpoint->path().string(),
                            dimension(*checkpoint, "decoder.head.2.bias", 0)));
        }
        const bool encoder =
            checkpoint != nullptr && checkpoint->find("encoder.conv1.weight") != nullptr;
        return describe_wan_vae(config_of(object, where), encoder);
    };
    kind.infer = infer;
    kind.config_json = [](const Network& network) {
        return config_json(network.config_as<WanVaeConfig>());
    };
    kind.renamer = renamer;
    return kind;
}

}  // namespace quantsparse::format
