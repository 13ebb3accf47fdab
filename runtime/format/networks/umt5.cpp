#include "format/networks/umt5.hpp"

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

// wi_0 is the gate, wi_1 the value (umt5 fact 27).
constexpr std::array<Rename, 10> kUmt5Block = {{
    {"layer.0.SelfAttention.q.", "attn.q."},
    {"layer.0.SelfAttention.k.", "attn.k."},
    {"layer.0.SelfAttention.v.", "attn.v."},
    {"layer.0.SelfAttention.o.", "attn.o."},
    {"layer.0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding."},
    {"layer.0.layer_norm.", "norm1."},
    {"layer.1.DenseReluDense.wi_0.", "ffn.gate.0."},
    {"layer.1.DenseReluDense.wi_1.", "ffn.fc1."},
    {"layer.1.DenseReluDense.wo.", "ffn.fc2."},
    {"layer.1.layer_norm.", "norm2."},
}};

// llama.cpp's names (gguf fact 52).
constexpr std::array<Rename, 10> kGgufBlock = {{
    {"attn_q.", "attn.q."},
    {"attn_k.", "attn.k."},
    {"attn_v.", "attn.v."},
    {"attn_o.", "attn.o."},
    {"attn_rel_b.", "pos_embedding.embedding."},
    {"attn_norm.", "norm1."},
    {"ffn_gate.", "ffn.gate.0."},
    {"ffn_up.", "ffn.fc1."},
    {"ffn_down.", "ffn.fc2."},
    {"ffn_norm.", "norm2."},
}};

std::string from_gguf_umt5(std::string name) {
    if (!rename_in_list(name, "enc.blk.", "blocks.", kGgufBlock)) {
        replace_prefix(name, "token_embd.", "token_embedding.") ||
            replace_prefix(name, "enc.output_norm.", "norm.");
    }
    return name;
}

/// Of a whole T5, of which the encoder is taken.
bool is_gguf_decoder(std::string_view name) {
    return name.starts_with("dec.") || name == "output.weight";
}

std::string from_transformers_umt5(std::string name) {
    if (!rename_in_list(name, "encoder.block.", "blocks.", kUmt5Block)) {
        replace_prefix(name, "shared.", "token_embedding.") ||
            replace_prefix(name, "encoder.final_layer_norm.", "norm.");
    }
    return name;
}

Renamer renamer(const std::vector<std::string>& names) {
    if (std::any_of(names.begin(), names.end(),
                    [](const std::string& name) { return name.starts_with("enc.blk."); })) {
        return [](std::string_view name) {
            return is_gguf_decoder(name) ? std::nullopt
                                         : std::optional(from_gguf_umt5(std::string(name)));
        };
    }
    bool upstream = true;
    bool repeats_embedding = false;  // encoder.embed_tokens is a copy of shared
    for (const auto& name : names) {
        upstream = upstream && !name.starts_with("encoder.block.") && !name.starts_with("shared.");
        repeats_embedding = repeats_embedding || name == "shared.weight";
    }
    return [=](std::string_view name) -> std::optional<std::string> {
        if (upstream) {
            return std::string(name);
        }
        // Files hold the embedding under one of two names, or under both.
        if (name == "encoder.embed_tokens.weight") {
            return repeats_embedding ? std::nullopt
                                     : std::optional<std::string>("token_embedding.weight");
        }
        return from_transformers_umt5(std::string(name));
    };
}

Umt5Config config_of(const json& object, const std::string& where) {
    check_class(object, {"UMT5EncoderModel", "T5Encoder"}, where);
    const json* kind = find_field(object, {"model_type"});
    if (kind != nullptr && *kind != "umt5") {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' describes a text encoder of type {}; only umt5 is supported",
                                where, printable(kind->dump())));
    }
    const json* activation = find_field(object, {"feed_forward_proj"});
    if (activation != nullptr && *activation != "gated-gelu") {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}': feed_forward_proj {} is not supported, only gated-gelu",
                                where, printable(activation->dump())));
    }
    if (const double eps = number_or(object, "layer_norm_epsilon", 1e-6, 0, 1, where);
        eps != 1e-6) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}': layer_norm_epsilon {} is not supported, only 1e-6", where, eps));
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
    config.dim_attn = find_field(object, {"dim_attn"}) != nullptr
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

std::vector<TensorSpec> tensors_of(const Umt5Config& config) {
    TensorList list;
    const std::int64_t dim = config.dim;
    list.add("token_embedding.weight", {config.vocab_size, dim});
    for (int layer = 0; layer < config.num_layers; ++layer) {
        const auto block = fmt::format("blocks.{}.", layer);
        list.add(block + "norm1.weight", {dim});
        list.add(block + "norm2.weight", {dim});
        for (const char* name : {"q", "k", "v"}) {
            list.add(block + "attn." + name + ".weight", {config.dim_attn, dim});
        }
        list.add(block + "attn.o.weight", {dim, config.dim_attn});
        list.add(block + "pos_embedding.embedding.weight", {config.num_buckets, config.num_heads});
        list.add(block + "ffn.gate.0.weight", {config.dim_ffn, dim});
        list.add(block + "ffn.fc1.weight", {config.dim_ffn, dim});
        list.add(block + "ffn.fc2.weight", {dim, config.dim_ffn});
    }
    list.add("norm.weight", {dim});
    return list.take();
}

void refuse_shared_bias(const Checkpoint& checkpoint) {
    const auto has = [&](int block) {
        return checkpoint.find(fmt::format("blocks.{}.pos_embedding.embedding.weight", block)) !=
               nullptr;
    };
    if (has(0) && !has(1)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' has one position bias for all layers: it is a T5, not the "
                                "umT5 that Wan uses",
                                checkpoint.path().string()));
    }
}

json config_json(const Umt5Config& config) {
    return {{"vocab", config.vocab_size},        {"dim", config.dim},
            {"dim_attn", config.dim_attn},       {"dim_ffn", config.dim_ffn},
            {"num_heads", config.num_heads},     {"num_layers", config.num_layers},
            {"num_buckets", config.num_buckets}, {"max_dist", config.max_distance},
            {"text_len", config.text_len},       {"shared_pos", false}};
}

json infer(const Checkpoint& checkpoint) {
    Umt5Config config;
    config.vocab_size = dimension(checkpoint, "token_embedding.weight", 0);
    config.dim = dimension(checkpoint, "token_embedding.weight", 1);
    config.dim_attn = dimension(checkpoint, "blocks.0.attn.q.weight", 0);
    config.dim_ffn = dimension(checkpoint, "blocks.0.ffn.fc1.weight", 0);
    config.num_buckets = dimension(checkpoint, "blocks.0.pos_embedding.embedding.weight", 0);
    config.num_heads = dimension(checkpoint, "blocks.0.pos_embedding.embedding.weight", 1);
    config.num_layers = count_blocks(checkpoint, "blocks.");
    return config_json(config);
}

}  // namespace

Network describe_umt5(const Umt5Config& config) {
    Network network;
    network.kind = "umt5";
    network.config = config;
    network.geometry.text_width = config.dim;
    network.tensors = tensors_of(config);
    return network;
}

NetworkKind umt5_kind() {
    NetworkKind kind;
    kind.name = "umt5";
    kind.prefixes = {"", "text_encoders.umt5xxl.transformer.", "text_encoder."};
    kind.marks = {{"encoder.final_layer_norm.weight"},
                  {"token_embedding.weight", "norm.weight"},
                  {"token_embd.weight", "enc.output_norm.weight"}};
    kind.harmless = {"spiece_model", "lm_head.", "decoder."};
    kind.gguf_architectures = {"t5encoder", "t5"};  // gguf fact 52
    kind.config_keys = {
        "model_type", "feed_forward_proj", "shared_pos", "vocab_size", "vocab", "dim", "d_model",
        "num_heads", "dim_attn", "d_kv", "dim_ffn", "d_ff", "num_layers", "num_buckets",
        "relative_attention_num_buckets", "max_dist", "max_distance",
        "relative_attention_max_distance", "text_len", "layer_norm_epsilon",
        // Of training, of the decoder, and repeated by others.
        "architectures", "classifier_dropout", "decoder_start_token_id", "dense_act_fn", "dropout",
        "dropout_rate", "encoder_layers", "eos_token_id", "initializer_factor",
        "is_encoder_decoder", "is_gated_act", "num_decoder_layers", "output_past", "pad_token_id",
        "scalable_attention", "tie_word_embeddings", "tokenizer_class", "torch_dtype", "dtype",
        "transformers_version", "use_cache", "bos_token_id", "is_decoder"};
    kind.describe = [](const json& object, const Checkpoint* checkpoint, const std::string& where) {
        const auto config = config_of(object, where);
        if (checkpoint != nullptr && config.num_layers > 1) {
            refuse_shared_bias(*checkpoint);
        }
        return describe_umt5(config);
    };
    kind.infer = infer;
    kind.config_json = [](const Network& network) {
        return config_json(network.config_as<Umt5Config>());
    };
    kind.renamer = renamer;
    return kind;
}

}  // namespace quantsparse::format
