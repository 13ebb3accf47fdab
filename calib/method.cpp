#include "calib/method.hpp"

#include <fmt/format.h>

#include <array>

#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

Method searched() {
    return {};
}

Method plain(Rotation rotation, ChannelScale scale) {
    Method method;
    method.rotation = rotation;
    method.scale = scale;
    method.clip_search = false;
    method.correct_bias = false;
    return method;
}

Method full() {
    Method method;
    method.rotation = Rotation::learned;
    method.scale = ChannelScale::learned;
    method.learns = true;
    method.distill = Distillation::msad;
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
    static const std::array<Preset, 7> kPresets = {
        Preset{"fast",
               "searched channel scale, Hadamard rotation, MSE clipping, bias correction; no "
               "learning",
               searched()},
        Preset{"full",
               "QuantSparse (arXiv 2509.23681): from the solution of fast, learned channel scale, "
               "rotation and clipping per block with multi-scale salient attention distillation",
               full()},
        Preset{"minmax", "absolute maxima, nothing else",
               plain(Rotation::none, ChannelScale::none)},
        Preset{"smoothquant",
               "SmoothQuant (arXiv 2211.10438): channel scale with alpha 0.5, absolute maxima",
               plain(Rotation::none, ChannelScale::smooth)},
        Preset{"quarot",
               "QuaRot (arXiv 2404.00456): Hadamard rotation, round to nearest; in blocks of 128 "
               "and on line, as a DiT needs; without its GPTQ",
               plain(Rotation::hadamard, ChannelScale::none)},
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
