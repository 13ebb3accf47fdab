// The face of every video autoencoder. What a latent cell spans is in the network's geometry.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/weights.hpp"

namespace quantsparse::models {

/// A clip in host memory, [channels, frames, height, width].
struct Clip {
    int channels = 0;
    int frames = 0;
    int height = 0;
    int width = 0;
    std::vector<float> values;
};

/// Encoder or decoder for one picture size. Not for several threads at once.
class VideoVae {
  public:
    enum class Direction { encode, decode };

    virtual ~VideoVae() = default;
    virtual const WeightSet& weights() const = 0;
    /// Runs a whole clip through; the weights must have been uploaded. Decoding: normalised latents
    /// to unclamped RGB; encoding: RGB in [-1, 1] to normalised latent means. The clip is empty
    /// when `between` cancelled. `after_chunk(prefix)` lets tests read the intermediates named
    /// "<prefix>…".
    virtual Clip run(program::Executor& executor, const Clip& input, const Between& between = {},
                     const std::function<void(const std::string&)>& after_chunk = {}) const = 0;
};

}  // namespace quantsparse::models
