#include "format/networks/wan_dit.hpp"

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

constexpr const char* kPatchEmbedding = "patch_embedding.weight";

// diffusers swaps two norms: its `norm2` is the affine one before cross attention, which upstream
// calls `norm3`; its `norm3` has no parameters (wan fact 5).
constexpr std::array<Rename, 16> kTransformerBlock = {{
    {"attn1.to_q.", "self_attn.q."},
    {"attn1.to_k.", "self_attn.k."},
    {"attn1.to_v.", "self_attn.v."},
    {"attn1.to_out.0.", "self_attn.o."},
    {"attn1.norm_q.", "self_attn.norm_q."},
    {"attn1.norm_k.", "self_attn.norm_k."},
    {"attn2.to_q.", "cross_attn.q."},
    {"attn2.to_k.", "cross_attn.k."},
    {"attn2.to_v.", "cross_attn.v."},
    {"attn2.to_out.0.", "cross_attn.o."},
    {"attn2.norm_q.", "cross_attn.norm_q."},
    {"attn2.norm_k.", "cross_attn.norm_k."},
    {"norm2.", "norm3."},
    {"ffn.net.0.proj.", "ffn.0."},
    {"ffn.net.2.", "ffn.2."},
    {"scale_shift_table", "modulation"},
}};

constexpr std::array<Rename, 7> kTransformerTop = {{
    {"condition_embedder.time_embedder.linear_1.", "time_embedding.0."},
    {"condition_embedder.time_embedder.linear_2.", "time_embedding.2."},
    {"condition_embedder.time_proj.", "time_projection.1."},
    {"condition_embedder.text_embedder.linear_1.", "text_embedding.0."},
    {"condition_embedder.text_embedder.linear_2.", "text_embedding.2."},
    {"proj_out.", "head.head."},
    {"scale_shift_table", "head.modulation"},
}};

std::string from_diffusers_transformer(std::string name) {
    if (!rename_in_list(name, "blocks.", "blocks.", kTransformerBlock)) {
        rename_start(name, kTransformerTop);
    }
    return name;
}

Renamer renamer(const std::vector<std::string>& names) {
    const bool upstream = std::none_of(names.begin(), names.end(), [](const std::string& name) {
        return name.starts_with("condition_embedder.");
    });
    return [upstream](std::string_view name) -> std::optional<std::string> {
        return upstream ? std::string(name) : from_diffusers_transformer(std::string(name));
    };
}

std::vector<LinearGroup> groups_of(const WanDitConfig& config) {
    const int dim = config.dim;
    const auto linear = [](const char* name, int out, int in) { return LinearSpec{name, out, in}; };
    return {
        {"self_qkv",
         dim,
         {linear("self_attn.q", dim, dim), linear("self_attn.k", dim, dim),
          linear("self_attn.v", dim, dim)}},
        {"self_o", dim, {linear("self_attn.o", dim, dim)}},
        {"cross_q", dim, {linear("cross_attn.q", dim, dim)}},
        {"cross_kv",
         dim,
         {linear("cross_attn.k", dim, dim), linear("cross_attn.v", dim, dim)},
         true},
        {"cross_o", dim, {linear("cross_attn.o", dim, dim)}},
        {"ffn_0", dim, {linear("ffn.0", config.ffn_dim, dim)}},
        {"ffn_2", config.ffn_dim, {linear("ffn.2", dim, config.ffn_dim)}},
    };
}

WanDitConfig config_of(const json& object, const std::string& where) {
    check_class(object, {"WanTransformer3DModel", "WanModel"}, where);
    const json* kind = find_field(object, {"model_type"});
    // Attention in windows, and tokens that know their own time: relatives of the released models.
    const json* window = find_field(object, {"window_size"});
    if (window != nullptr && *window != json::array({-1, -1})) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}': window_size {} is not supported, only attention over the "
                                "whole clip ([-1, -1])",
                                where, printable(window->dump())));
    }
    const bool other_kind = kind != nullptr && *kind != "t2v";
    if (other_kind || find_field(object, {"image_dim", "added_kv_proj_dim"}) != nullptr) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' describes a model that takes an image; this version runs "
                                "text-to-video models",
                                where));
    }
    WanDitConfig config;
    config.num_heads = integer(object, {"num_heads", "num_attention_heads"}, where, -1, 1, 4096);
    config.dim =
        find_field(object, {"dim"}) != nullptr
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
    if (const json* norm = find_field(object, {"qk_norm"})) {
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
    if (const json* patch = find_field(object, {"patch_size"})) {
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

std::vector<TensorSpec> tensors_of(const WanDitConfig& config,
                                   const std::vector<NetworkBlock>& blocks) {
    TensorList list;
    const std::int64_t dim = config.dim;
    const std::int64_t patch =
        std::int64_t{config.patch_size[0]} * config.patch_size[1] * config.patch_size[2];
    list.with_bias("patch_embedding", {dim, config.in_dim, config.patch_size[0],
                                       config.patch_size[1], config.patch_size[2]});
    list.with_bias("text_embedding.0", {dim, config.text_dim});
    list.with_bias("text_embedding.2", {dim, dim});
    list.with_bias("time_embedding.0", {dim, config.freq_dim});
    list.with_bias("time_embedding.2", {dim, dim});
    list.with_bias("time_projection.1", {6 * dim, dim});
    for (const auto& block : blocks) {
        list.add(block.prefix + "modulation", {1, 6, dim});
        if (config.cross_attn_norm) {
            list.add(block.prefix + "norm3.weight", {dim});
            list.add(block.prefix + "norm3.bias", {dim});
        }
        for (const char* attention : {"self_attn", "cross_attn"}) {
            if (config.qk_norm) {
                list.add(block.prefix + attention + ".norm_q.weight", {dim});
                list.add(block.prefix + attention + ".norm_k.weight", {dim});
            }
        }
    }
    for (const auto& block : blocks) {
        list.add_linears(block);
        if (config.sparse_linear) {
            list.with_bias(block.prefix + kLinearProjection,
                           {config.head_dim(), config.head_dim()});
        }
    }
    list.with_bias("head.head", {patch * config.out_dim, dim});
    list.add("head.modulation", {1, 2, dim});
    return list.take();
}

/// Whether any block was trained with sparse-linear attention: then all must be.
bool holds_linear_projection(const Checkpoint& checkpoint, int layers) {
    for (int layer = 0; layer < layers; ++layer) {
        const std::string name = fmt::format("blocks.{}.{}", layer, kLinearProjection);
        if (checkpoint.find(name + ".weight") || checkpoint.find(name + ".bias")) return true;
    }
    return false;
}

Network describe(const json& json_config, const Checkpoint* checkpoint, const std::string& where) {
    WanDitConfig config = config_of(json_config, where);
    config.sparse_linear =
        checkpoint != nullptr && holds_linear_projection(*checkpoint, config.num_layers);
    Network network = describe_wan_dit(config);
    const TensorView* patches = checkpoint == nullptr ? nullptr : checkpoint->find(kPatchEmbedding);
    if (patches != nullptr && patches->shape.size() == 2) {  // TurboDiffusion's is a linear
        std::vector<std::int64_t>& shape = network.tensors.front().shape;
        shape = {shape[0], shape[1] * shape[2] * shape[3] * shape[4]};
    }
    return network;
}

json config_json(const WanDitConfig& config) {
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

/// Sets in_dim and the size of the patches, whose cells are counted.
int infer_patches(const Checkpoint& checkpoint, WanDitConfig& config) {
    const std::size_t rank = checkpoint.at(kPatchEmbedding).shape.size();
    if (rank == 2) {  // TurboDiffusion's linear doesn't tell the patch: the released models' it is
        const int patch = config.patch_size[0] * config.patch_size[1] * config.patch_size[2];
        config.in_dim = dimension(checkpoint, kPatchEmbedding, 1) / patch;
        return patch;
    }
    // stable-diffusion.cpp makes one dimension of the outputs and inputs: ggml has but four.
    const bool folded = rank == 4;
    config.in_dim = folded ? dimension(checkpoint, kPatchEmbedding, 0) / config.dim
                           : dimension(checkpoint, kPatchEmbedding, 1);
    int patch = 1;
    for (std::size_t axis = 0; axis < 3; ++axis) {
        config.patch_size[axis] = dimension(checkpoint, kPatchEmbedding, axis + (folded ? 1 : 2));
        patch *= config.patch_size[axis];
    }
    return patch;
}

json infer(const Checkpoint& checkpoint) {
    WanDitConfig config;
    config.dim = dimension(checkpoint, "patch_embedding.bias", 0);
    const int patch = infer_patches(checkpoint, config);
    config.out_dim = dimension(checkpoint, "head.head.weight", 0) / patch;
    config.text_dim = dimension(checkpoint, "text_embedding.0.weight", 1);
    config.freq_dim = dimension(checkpoint, "time_embedding.0.weight", 1);
    const char* ffn =
        checkpoint.find("blocks.0.ffn.0.bias") ? "blocks.0.ffn.0.bias" : "blocks.0.ffn.0.weight";
    config.ffn_dim = dimension(checkpoint, ffn, 0);
    config.num_layers = count_blocks(checkpoint, "blocks.");
    config.num_heads = config.dim % 128 == 0 ? config.dim / 128 : std::max(config.dim / 64, 1);
    config.qk_norm = checkpoint.find("blocks.0.self_attn.norm_q.weight") != nullptr;
    config.cross_attn_norm = checkpoint.find("blocks.0.norm3.weight") != nullptr;
    return config_json(config);
}

}  // namespace

Network describe_wan_dit(const WanDitConfig& config) {
    Network network;
    network.kind = "wan-dit";
    network.sparse_linear = config.sparse_linear;
    network.config = config;
    auto& geometry = network.geometry;
    geometry.patch = config.patch_size;
    geometry.in_channels = config.in_dim;
    geometry.out_channels = config.out_dim;
    geometry.text_width = config.text_dim;
    geometry.text_tokens = config.text_len;
    geometry.width = config.dim;
    for (int layer = 0; layer < config.num_layers; ++layer) {
        network.blocks.push_back({fmt::format("blocks.{}.", layer), groups_of(config)});
    }
    network.tensors = tensors_of(config, network.blocks);
    return network;
}

NetworkKind wan_dit_kind() {
    NetworkKind kind;
    kind.name = "wan-dit";
    kind.prefixes = {"", "model.diffusion_model.", "diffusion_model.", "transformer."};
    kind.marks = {{"patch_embedding.weight", "time_projection.1.bias"},
                  {"patch_embedding.weight", "condition_embedder.time_proj.bias"}};
    kind.gguf_architectures = {"wan"};  // gguf fact 51
    kind.harmless = {"freqs", "rope."};
    kind.config_keys = {"model_type", "num_heads", "num_attention_heads", "dim",
                        "attention_head_dim", "ffn_dim", "num_layers", "in_dim", "in_channels",
                        "out_dim", "out_channels", "text_dim", "text_len", "freq_dim", "eps",
                        "cross_attn_norm", "qk_norm", "patch_size",
                        // Limits of upstream's tables, and attention over the whole clip.
                        "rope_max_seq_len", "window_size", "torch_dtype"};
    kind.describe = describe;
    kind.infer = infer;
    kind.config_json = [](const Network& network) {
        return config_json(network.config_as<WanDitConfig>());
    };
    kind.renamer = renamer;
    kind.from_diffusers = from_diffusers_transformer;
    return kind;
}

}  // namespace quantsparse::format
