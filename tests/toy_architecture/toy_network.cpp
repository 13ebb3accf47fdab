#include "toy_network.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "format/json_fields.hpp"
#include "format/model_bundle.hpp"
#include "format/networks/registry.hpp"
#include "format/networks/shapes.hpp"
#include "pipeline/recipes.hpp"

namespace quantsparse::toy {
namespace {

using format::Checkpoint;
using format::Network;
using nlohmann::json;

ToyConfig config_of(const json& object, const std::string& where) {
    format::check_class(object, {"ToyJointModel"}, where);
    ToyConfig config;
    config.width = format::integer(object, {"width"}, where);
    config.hidden = format::integer(object, {"hidden"}, where);
    config.heads = format::integer(object, {"heads"}, where);
    config.layers = format::integer(object, {"layers"}, where);
    config.text_width = format::integer(object, {"text_width"}, where);
    if (config.width % (4 * config.heads) != 0) {
        format::reject(where, "width must be heads times a multiple of 4");
    }
    return config;
}

json to_json(const ToyConfig& config) {
    return {{"_class_name", "ToyJointModel"}, {"width", config.width},
            {"hidden", config.hidden},        {"heads", config.heads},
            {"layers", config.layers},        {"text_width", config.text_width}};
}

/// Shapes tell everything but the number of heads, which the norms' length gives.
json infer(const Checkpoint& checkpoint) {
    ToyConfig config;
    config.width = format::dimension(checkpoint, "img_in.weight", 0);
    config.text_width = format::dimension(checkpoint, "txt_in.weight", 1);
    config.hidden = format::dimension(checkpoint, "layers.0.mlp.up.weight", 0);
    config.heads = config.width / format::dimension(checkpoint, "layers.0.attn.q_scale", 0);
    config.layers = format::count_blocks(checkpoint, "layers.");
    return to_json(config);
}

std::vector<format::LinearGroup> groups_of(const ToyConfig& c) {
    return {{"joint_in",
             c.width,
             {{"attn.to_q", c.width, c.width},
              {"attn.to_k", c.width, c.width},
              {"attn.to_v", c.width, c.width, false}}},
            {"joint_out", c.width, {{"attn.proj", c.width, c.width}}},
            {"mlp_up", c.width, {{"mlp.up", c.hidden, c.width}}},
            {"mlp_down", c.hidden, {{"mlp.down", c.width, c.hidden}}}};
}

void fit(format::ModelBundle& bundle, const std::string& where) {
    const auto& transformer = bundle.network("transformer").geometry;
    format::require_equal(where, "the transformer's text_width", transformer.text_width,
                          "the text encoder's dim",
                          bundle.network("text_encoder").geometry.text_width);
    format::require_equal(where, "the transformer's channels", transformer.in_channels,
                          "the VAE's z_dim", bundle.network("vae").geometry.in_channels);
}

}  // namespace

Network describe_toy(const ToyConfig& c) {
    Network network;
    network.kind = "toy-joint";
    network.config = c;
    auto& geometry = network.geometry;
    geometry.patch = {1, c.patch, c.patch};
    geometry.in_channels = geometry.out_channels = c.channels;
    geometry.text_width = c.text_width;
    geometry.text_tokens = c.text_tokens;
    geometry.width = c.width;
    format::TensorList list;
    const int features = c.channels * c.patch * c.patch;
    list.with_bias("img_in", {c.width, features});
    list.with_bias("txt_in", {c.width, c.text_width});
    // The sinusoid, then the guidance scale and three zeros.
    list.with_bias("time_in", {c.width, c.frequencies + 4});
    list.with_bias("time_out", {kVectors * c.width, c.width});
    for (int layer = 0; layer < c.layers; ++layer) {
        const auto prefix = fmt::format("layers.{}.", layer);
        network.blocks.push_back({prefix, groups_of(c)});
        list.add(prefix + "mod", {kVectors, c.width});
        list.add(prefix + "attn.q_scale", {c.head_dim()});
        list.add(prefix + "attn.k_scale", {c.head_dim()});
        list.add_linears(network.blocks.back());
    }
    list.with_bias("img_out", {features, c.width});
    network.tensors = list.take();
    return network;
}

format::NetworkKind toy_kind() {
    format::NetworkKind kind;
    kind.name = "toy-joint";
    kind.prefixes = {"transformer."};
    kind.describe = [](const json& object, const Checkpoint*, const std::string& where) {
        return describe_toy(config_of(object, where));
    };
    kind.infer = infer;
    kind.config_json = [](const Network& network) {
        return to_json(network.config_as<ToyConfig>());
    };
    kind.renamer = [](const std::vector<std::string>&) -> format::Renamer {
        return [](std::string_view name) { return std::optional<std::string>(name); };
    };
    return kind;
}

format::Architecture toy_architecture() {
    format::Architecture architecture;
    architecture.name = "toy-joint";
    architecture.title = "a made-up joint transformer";
    architecture.pipeline_class = "ToyJointPipeline";
    architecture.parts = {
        {"transformer", "toy-joint", "transformer", {"toy"}, "diffusion_models", "unet"},
        {"text_encoder", "umt5", "text encoder", {"t5"}, "text_encoders", "clip"},
        {"vae", "wan-vae", "VAE", {"vae"}, "vae", "vae"}};
    architecture.tokenizers = {
        {"tokenizer", "spiece.model", {"spiece.model"}, "text_encoder", "spiece_model"}};
    architecture.fit = fit;
    return architecture;
}

void register_toy_network() {
    format::add_network_kind(toy_kind());
    format::add_architecture(toy_architecture());
    // Two experts, so that a switch is shown; both are the one transformer.
    pipeline::add_recipe({"toy-joint",
                          {{"text_encoder", "tokenizer", "prompt_rows"}},
                          {{"transformer", 700, {}}, {"transformer", 0, {}}},
                          "vae",
                          pipeline::Guidance::embedded});
}

}  // namespace quantsparse::toy
