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
    method.temporal_loss = true;
    return method;
}

}  // namespace

std::span<const Preset> presets() {
    static const std::array<Preset, 8> kPresets = {
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
               "clipping, with its temporal loss; symmetric codes, without its on-line branch of "
               "rank 1",
               q_vdit()}};
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
            method.learns && overrides.clip_activations.value_or(activation_bits < 8);
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
    constexpr std::array kNames = {"none", "smooth", "search", "learned"};
    return kNames.at(static_cast<std::size_t>(scale));
}

const char* name_of(Distillation distillation) {
    constexpr std::array kNames = {"none", "global", "local", "msad"};
    return kNames.at(static_cast<std::size_t>(distillation));
}

}  // namespace quantsparse::calib
