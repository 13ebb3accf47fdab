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

/// Takes the next frames of a clip, [channels, some frames, height, width].
using TakeFrames = std::function<void(const Clip& part)>;

/// Puts the parts of a clip together again.
class JoinedClip {
  public:
    /// For TakeFrames.
    void add(const Clip& part);
    /// Of all parts so far; without any, an empty clip.
    Clip take();

  private:
    std::vector<Clip> parts_;
};

/// Encoder or decoder for one picture size. Not for several threads at once.
class VideoVae {
  public:
    enum class Direction { encode, decode };

    virtual ~VideoVae() = default;
    virtual const WeightSet& weights() const = 0;
    /// Runs a whole clip through, and hands out the frames as they are made; the weights must have
    /// been uploaded. Decoding: normalised latents to unclamped RGB; encoding: RGB in [-1, 1] to
    /// normalised latent means. False when `between` cancelled. `after_chunk(prefix)` lets tests
    /// read the intermediates named "<prefix>…".
    virtual bool run(program::Executor& executor, const Clip& input, const TakeFrames& take,
                     const Between& between = {},
                     const std::function<void(const std::string&)>& after_chunk = {}) const = 0;
};

}  // namespace quantsparse::models
