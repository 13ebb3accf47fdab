// The networks that can be run, by the kinds of their descriptions. Tests add theirs.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/denoising_network.hpp"
#include "models/text_encoder.hpp"
#include "models/video_vae.hpp"

namespace quantsparse::models {

struct DenoisingKind {
    std::string kind;
    std::unique_ptr<DenoisingNetwork> (*make)(Program& program, const format::Network& network,
                                              const DenoisingOptions& options) = nullptr;
    /// How much the blocks' output is expected to change from step to step, for
    /// sampling::reused_steps; nullptr: nobody knows.
    std::vector<double> (*step_changes)(const WeightSource& source, const format::Network& network,
                                        std::span<const float> timesteps) = nullptr;
};

struct TextEncoderKind {
    std::string kind;
    /// `tokens`: length of the (padded) sequence; the first `valid` of them may be attended to.
    std::unique_ptr<TextEncoder> (*make)(Program& program, const format::Network& network,
                                         int tokens, int valid, bool half) = nullptr;
};

struct VideoVaeKind {
    std::string kind;
    /// `height`, `width`: of the input: pixels when encoding, latent cells when decoding.
    std::unique_ptr<VideoVae> (*make)(Program& program, const format::Network& network,
                                      VideoVae::Direction direction, int height,
                                      int width) = nullptr;
};

/// Throw Error(unsupported) for a network that can't be run.
const DenoisingKind& denoising_kind(const format::Network& network);
const TextEncoderKind& text_encoder_kind(const format::Network& network);
const VideoVaeKind& video_vae_kind(const format::Network& network);

void add_denoising_kind(DenoisingKind kind);

}  // namespace quantsparse::models
