// Pixels, latent cells and tokens of a clip, and which sizes a model can do.
#pragma once

#include <array>

#include "format/network.hpp"

namespace quantsparse::format {

struct ClipGeometry {
    int channels = 0;                      ///< of the latents
    int space = 1;                         ///< pixels of a latent cell along rows and columns
    int time = 1;                          ///< frames of a latent cell, after the first
    std::array<int, 3> patch = {1, 1, 1};  ///< latent cells of a token: frames, rows, columns

    int width_multiple() const { return space * patch[2]; }  ///< pixels
    int height_multiple() const { return space * patch[1]; }
    int latent_frames(int frames) const { return (frames - 1) / time + 1; }
    bool fits_frames(int frames) const {
        return frames >= 1 && (frames - 1) % time == 0 && latent_frames(frames) % patch[0] == 0;
    }
    /// [channels, frames, rows, columns] of a clip of a size that fits.
    std::array<int, 4> latent(int width, int height, int frames) const {
        return {channels, latent_frames(frames), height / space, width / space};
    }
    int tokens(const std::array<int, 4>& latent) const {
        return latent[1] / patch[0] * (latent[2] / patch[1]) * (latent[3] / patch[2]);
    }
};

inline ClipGeometry clip_geometry(const Network& transformer, const Network& vae) {
    return {vae.geometry.in_channels, vae.geometry.space, vae.geometry.time,
            transformer.geometry.patch};
}

}  // namespace quantsparse::format
