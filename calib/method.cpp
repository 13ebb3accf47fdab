#include "calib/method.hpp"

#include <fmt/format.h>

#include <array>

#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

Method searched() {
    Method method;
    method.rounding = Rounding::refined;
    return method;
}

Method plain(Rotation rotation, ChannelScale scale) {
    Method method;
    method.rotation = rotation;
    method.scale = scale;
    method.clip_search = false;
    method.correct_bias = false;
    return method;
}

Method quarot() {
    auto method = plain(Rotation::hadamard, ChannelScale::none);
    method.rounding = Rounding::gptq;
    method.clip_search = true;
    return method;
}

Method ptq4dit() {
    auto method = plain(Rotation::none, ChannelScale::salient);
    method.rounding = Rounding::gptq;
    method.clip_search = true;
    return method;
}

Method q_dit() {
    auto method = plain(Rotation::none, ChannelScale::none);
    method.rounding = Rounding::gptq;
    return method;
}

Method mpq_dm() {
    auto method = plain(Rotation::none, ChannelScale::smooth);
    method.branch_rank = 16;
    method.salient_share = 0.1;
    return method;
}

Method s2q_vdit() {
    auto method = plain(Rotation::hadamard, ChannelScale::smooth);
    method.clip_search = true;
    method.learns = true;
    method.selection = SampleSelection::salient;
    method.token_weights = true;
    return method;
}

/// Of its code: rates, floating-point inputs, plain loss.
Method quantvggt() {
    auto method = plain(Rotation::hadamard, ChannelScale::learned);
    method.order = TransformOrder::rotate_scale;
    method.start_alpha = 0.5f;
    method.learns = true;
    method.two_sided_clip = true;
    method.clip_activations = true;
    method.plain_loss = true;
    method.selection = SampleSelection::diverse;
    method.rate = 1e-3;
    method.quantizer_rate = 1e-2;
    method.inputs = BlockInputs::fp;
    return method;
}

Method paper() {
    Method method;
    method.rotation = Rotation::learned;
    method.scale = ChannelScale::learned;
    method.learns = true;
    method.distill = Distillation::msad;
    return method;
}

/// The paper's, from all that fast finds: its rotation has blocks of 128 (format::hadamard_block).
Method full() {
    auto method = paper();
    method.rounding = Rounding::refined;
    method.rotation_block = 128;
    return method;
}

Method q_vdit() {
    auto method = plain(Rotation::none, ChannelScale::none);
    method.clip_search = true;
    method.learns = true;
    method.low_rank = 32;
    method.branch_rank = 1;
    method.temporal_loss = true;
    return method;
}

}  // namespace

std::span<const Preset> presets() {
    static const std::array<Preset, 13> kPresets = {
        Preset{"fast",
               "searched channel scale, Hadamard rotation, MSE clipping, rounding with error "
               "feedback for guided inputs and descent, bias correction; no learning",
               searched()},
        Preset{"full",
               "from the solution of fast, channel scale, rotation and clipping learned per block "
               "with multi-scale salient attention distillation, then rounding with error feedback",
               full()},
        Preset{"paper",
               "QuantSparse (arXiv 2509.23681) as published: what full learns, rounded to nearest",
               paper()},
        Preset{"minmax", "absolute maxima, nothing else",
               plain(Rotation::none, ChannelScale::none)},
        Preset{"smoothquant",
               "SmoothQuant (arXiv 2211.10438): channel scale with alpha 0.5, absolute maxima",
               plain(Rotation::none, ChannelScale::smooth)},
        Preset{"quarot",
               "QuaRot (arXiv 2404.00456): Hadamard rotation, MSE clipping, GPTQ; in blocks of 128 "
               "and on line, as a DiT needs",
               quarot()},
        Preset{"vidit-q",
               "ViDiT-Q (arXiv 2406.02540): channel scale (alpha 0.5), Hadamard rotation, dynamic "
               "tokens; one range of timesteps, uniform bits, without its mixed precision",
               plain(Rotation::hadamard, ChannelScale::smooth)},
        Preset{"q-vdit",
               "Q-VDiT (arXiv 2505.22167): learned addition of rank 32 to each weight and learned "
               "clipping, a learned branch of rank 1 beside the codes, with its temporal loss per "
               "block; "
               "symmetric codes, without its factors per token",
               q_vdit()},
        Preset{"ptq4dit",
               "PTQ4DiT (arXiv 2405.16005): channel scale from the steps' maxima, weighted by how "
               "little they agree with the weight's, MSE clipping; GPTQ in the place of AdaRound",
               ptq4dit()},
        Preset{"q-dit",
               "Q-DiT (arXiv 2406.17343): absolute maxima, GPTQ, dynamic activations; per output "
               "channel, without its groups of input channels and the search for their size",
               q_dit()},
        Preset{"quantvggt",
               "QuantVGGT (arXiv 2509.21302): rotated first, then a channel scale that is learned "
               "from alpha 0.5, two learned clipping factors per output channel, plain loss on "
               "floating-point inputs, samples filtered by quartiles and taken from clusters; "
               "rotation in blocks, one clipping factor for activations, no weight decay",
               quantvggt()},
        Preset{"s2q-vdit",
               "S2Q-VDiT (arXiv 2508.04016): samples by change of the latent times sensitivity to "
               "rounding, loss weighted by the attention that tokens receive; formulas ours where "
               "the abstract has none, learned clipping on ViDiT-Q's transform",
               s2q_vdit()},
        Preset{"mpq-dm",
               "MPQ-DMv2 (arXiv 2507.04290): channel scale (alpha 0.5), beside the codes one-bit "
               "residuals of the tenth of output channels with the highest kurtosis and the first "
               "16 terms of what is left; without learning and its memory of past features",
               mpq_dm()}};
    return kPresets;
}

Method method_of(const std::string& preset, const MethodOverrides& overrides, int activation_bits) {
    for (const auto& candidate : presets()) {
        if (preset != candidate.name) {
            continue;
        }
        auto method = candidate.method;
        method.rounding = overrides.rounding.value_or(method.rounding);
        method.rotation = overrides.rotation.value_or(method.rotation);
        method.scale = overrides.scale.value_or(method.scale);
        method.distill = overrides.distill.value_or(method.distill);
        method.correct_bias = overrides.correct_bias.value_or(method.correct_bias);
        method.learns = method.learns || method.rotation == Rotation::learned ||
                        method.scale == ChannelScale::learned ||
                        method.distill != Distillation::none;
        // 8 bits have room for the largest value; at 6 a token's outlier costs the others dearly.
        method.clip_activations =
            method.learns &&
            overrides.clip_activations.value_or(method.clip_activations || activation_bits < 8);
        return method;
    }
    std::string names;
    for (const auto& candidate : presets()) {
        names += fmt::format("{}{}", names.empty() ? "" : ", ", candidate.name);
    }
    throw Error(ErrorCode::invalid_argument,
                fmt::format("unknown preset '{}'; use one of {}", preset, names));
}

const char* name_of(Rounding rounding) {
    constexpr std::array kNames = {"nearest", "gptq", "refined"};
    return kNames.at(static_cast<std::size_t>(rounding));
}

const char* name_of(Rotation rotation) {
    constexpr std::array kNames = {"none", "hadamard", "learned"};
    return kNames.at(static_cast<std::size_t>(rotation));
}

const char* name_of(ChannelScale scale) {
    constexpr std::array kNames = {"none", "smooth", "search", "learned", "salient"};
    return kNames.at(static_cast<std::size_t>(scale));
}

const char* name_of(Distillation distillation) {
    constexpr std::array kNames = {"none", "global", "local", "msad"};
    return kNames.at(static_cast<std::size_t>(distillation));
}

}  // namespace quantsparse::calib
