// Latents to pictures and back, in tiles where a whole picture does not fit the device.
#pragma once

#include <cstdint>
#include <vector>

#include "format/model_bundle.hpp"
#include "models/video_vae.hpp"
#include "pipeline/stage.hpp"

namespace quantsparse::pipeline {

/// Latent cells of a decoding tile: the whole picture when it fits the device, else the largest
/// square that does.
struct VaeTile {
    int height = 0;
    int width = 0;
};
/// What the smallest tile takes; 0 when not even that suits the device.
std::uint64_t least_vae_bytes(const program::Limits& limits, const format::Network& vae, int height,
                              int width);
/// Throws Error(out_of_memory) when not even the smallest tile fits.
VaeTile choose_vae_tile(const program::Limits& limits, const format::Network& vae, int height,
                        int width, std::uint64_t budget_bytes);

/// Normalised latents [z, f, h, w] to unclamped RGB, which is handed out as it is made: a few
/// frames [3, frames, height, width] at a time. Tiles overlap by a quarter and are blended
/// linearly; then the whole clip is held until the last of them is there. False when cancelled.
bool decode_latents(vulkan::Device& device, const format::Component& vae,
                    const models::Clip& latents, const VaeTile& tile, const StageOptions& options,
                    const models::TakeFrames& take, const Between& between = {});
/// The same as one clip; empty when cancelled.
models::Clip decode_latents(vulkan::Device& device, const format::Component& vae,
                            const models::Clip& latents, const VaeTile& tile,
                            const StageOptions& options, const Between& between = {});

/// RGB in [-1, 1] to normalised latent means.
models::Clip encode_video(vulkan::Device& device, const format::Component& vae,
                          const models::Clip& video, const StageOptions& options,
                          const Between& between = {});

/// Clamped, truncated to bytes (wan fact 37): [frames, height, width, 3].
std::vector<std::uint8_t> to_rgb8(const models::Clip& video);

}  // namespace quantsparse::pipeline
