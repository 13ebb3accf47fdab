#include "format/tensor_names.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace quantsparse::format {
namespace {

using Rename = std::pair<std::string_view, std::string_view>;

bool replace_prefix(std::string& name, std::string_view from, std::string_view to) {
    if (!name.starts_with(from)) {
        return false;
    }
    name.replace(0, from.size(), to);
    return true;
}

/// Applies the first matching rename of the name's beginning.
template <std::size_t N>
void rename_start(std::string& name, const std::array<Rename, N>& renames) {
    for (const auto& [from, to] : renames) {
        if (replace_prefix(name, from, to)) {
            return;
        }
    }
}

/// Splits "blocks.12.rest" after the number: returns it and leaves "rest". Negative: no number.
int take_number(std::string_view& rest) {
    int value = -1;
    const auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (failure != std::errc{} || end == rest.data() + rest.size() || *end != '.' || value < 0 ||
        value > 9999) {
        return -1;
    }
    rest.remove_prefix(static_cast<std::size_t>(end - rest.data()) + 1);
    return value;
}

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

/// Renames what follows "<list>.<number>." by `inner` when the name begins with `list`.
template <std::size_t N>
bool rename_in_list(std::string& name, std::string_view list, std::string_view new_list,
                    const std::array<Rename, N>& inner) {
    if (!name.starts_with(list)) {
        return false;
    }
    std::string_view rest = std::string_view(name).substr(list.size());
    const int index = take_number(rest);
    if (index < 0) {
        return false;
    }
    std::string tail(rest);
    rename_start(tail, inner);
    name = std::string(new_list) + std::to_string(index) + "." + tail;
    return true;
}

std::string from_diffusers_transformer(std::string name) {
    if (!rename_in_list(name, "blocks.", "blocks.", kTransformerBlock)) {
        rename_start(name, kTransformerTop);
    }
    return name;
}

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

std::string from_transformers_umt5(std::string name) {
    if (!rename_in_list(name, "encoder.block.", "blocks.", kUmt5Block)) {
        replace_prefix(name, "shared.", "token_embedding.") ||
            replace_prefix(name, "encoder.final_layer_norm.", "norm.");
    }
    return name;
}

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

bool any_starts_with(const std::vector<std::string>& names, std::string_view start) {
    return std::any_of(names.begin(), names.end(),
                       [&](const std::string& name) { return name.starts_with(start); });
}

/// Prefixes under which single files keep the network, most specific first.
std::vector<std::string_view> known_prefixes(Component component) {
    switch (component) {
        case Component::transformer:
            return {"model.diffusion_model.", "transformer."};
        case Component::text_encoder:
            return {"text_encoders.umt5xxl.transformer.", "text_encoder."};
        case Component::vae:
            return {"first_stage_model.", "vae."};
    }
    return {};
}

}  // namespace

NameMapper::NameMapper(Component component, const std::vector<std::string>& names_on_disk)
    : component_(component) {
    for (const auto prefix : known_prefixes(component)) {
        if (any_starts_with(names_on_disk, prefix)) {
            prefix_ = prefix;
            break;
        }
    }
    int longest_stage = -1;
    for (const auto& name : names_on_disk) {
        if (!name.starts_with(prefix_)) {
            continue;
        }
        std::string_view rest = std::string_view(name).substr(prefix_.size());
        for (const std::string_view start :
             {"condition_embedder.", "encoder.block.", "shared.", "encoder.down_blocks.",
              "decoder.up_blocks.", "decoder.mid_block.", "post_quant_conv.", "quant_conv."}) {
            upstream_naming_ = upstream_naming_ && !rest.starts_with(start);
        }
        repeats_embedding_ = repeats_embedding_ || rest == "shared.weight";
        constexpr std::string_view kFirstStage = "decoder.up_blocks.0.resnets.";
        if (rest.starts_with(kFirstStage)) {
            rest.remove_prefix(kFirstStage.size());
            longest_stage = std::max(longest_stage, take_number(rest));
        }
    }
    if (longest_stage >= 0) {
        decoder_stage_length_ = longest_stage + 2;  // residual blocks and the upsampler
    }
}

std::optional<std::string> NameMapper::canonical(std::string_view name_on_disk) const {
    if (!name_on_disk.starts_with(prefix_)) {
        return std::nullopt;
    }
    std::string name(name_on_disk.substr(prefix_.size()));
    if (upstream_naming_) {
        return name;
    }
    switch (component_) {
        case Component::transformer:
            return from_diffusers_transformer(std::move(name));
        case Component::text_encoder:
            // Files hold the embedding under one of two names, or under both.
            if (name == "encoder.embed_tokens.weight") {
                return repeats_embedding_ ? std::nullopt
                                          : std::optional<std::string>("token_embedding.weight");
            }
            return from_transformers_umt5(std::move(name));
        case Component::vae:
            return from_diffusers_vae(std::move(name), decoder_stage_length_);
    }
    return std::nullopt;
}

}  // namespace quantsparse::format
