// The Wan video VAE as Programs that stream through time (upstream: wan/modules/vae.py;
// wan facts 12-22): a phase for the first latent frame and one for each later one, with the last
// two input frames of every causal convolution kept between runs. Pictures are frame-major, fp32.
#pragma once

#include <functional>
#include <vector>

#include "format/model_config.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

/// Pixels per latent cell in space, and frames per latent frame after the first.
int spatial_factor(const format::WanVaeConfig& config);
int temporal_factor(const format::WanVaeConfig& config);

/// A clip in host memory, [channels, frames, height, width].
struct Clip {
    int channels = 0;
    int frames = 0;
    int height = 0;
    int width = 0;
    std::vector<float> values;
};

/// Encoder or decoder for one picture size.
class WanVae {
  public:
    enum class Direction { encode, decode };

    /// `height`, `width`: of the input: pixels when encoding, latent cells when decoding.
    WanVae(Program& program, const format::WanVaeConfig& config, Direction direction, int height,
           int width);

    const WeightSet& weights() const { return weights_; }

    /// Runs a whole clip through; the weights must have been uploaded. Decoding: normalised latents
    /// to unclamped RGB; encoding: RGB in [-1, 1] to normalised latent means (trailing frames
    /// beyond 4n + 1 are dropped). `between(done, total)` may cancel: then the clip is empty.
    /// `after_chunk(prefix)` lets tests read the intermediates named "<prefix>…".
    Clip run(program::Executor& executor, const Clip& input,
             const std::function<bool(int, int)>& between = {},
             const std::function<void(const std::string&)>& after_chunk = {}) const;

  private:
    using Pictures = kernels::Pictures;

    struct Conv {
        kernels::ConvWeight weight;
        Tensor history;  ///< the last kernel_t - 1 input frames, per convolution
        int history_frames = 0;
    };
    struct ChunkIo {
        Pictures input;
        Pictures output;
        std::uint32_t phase = 0;
    };

    ChunkIo build_decoder(bool first);
    ChunkIo build_encoder(bool first);
    Pictures residual_block(const std::string& name, const Pictures& x, int out_channels);
    Pictures attention_block(const std::string& name, const Pictures& x);
    Pictures middle(const std::string& name, const Pictures& x);
    Pictures norm_conv(const std::string& norm, const std::string& conv, const Pictures& x,
                       int out_channels, const Pictures* residual);
    Pictures causal_conv(const std::string& name, const Pictures& x, int out_channels);
    Pictures upsample(const std::string& name, const Pictures& x, bool temporal, bool first);
    Pictures downsample(const std::string& name, const Pictures& x, bool temporal, bool first);
    Pictures point_conv(const std::string& name, const Pictures& x, int out_channels,
                        const Pictures* residual = nullptr);

    Pictures with_history(const std::string& name, int frames, const Pictures& like, int history);
    void load_history(Conv& conv, const Pictures& padded);
    void store_history(Conv& conv, const Pictures& padded);
    Conv& convolution(const std::string& name, int out_channels, const Pictures& like, int kernel_t,
                      int kernel_y, int kernel_x);
    Tensor gamma(const std::string& name, int channels);
    void keep_frames(const std::string& name, const Pictures& x);

    format::WanVaeConfig config_;
    Direction direction_;
    Program& program_;
    WeightSet weights_;
    int height_, width_;
    std::string prefix_;  ///< of kept intermediates
    std::vector<std::pair<std::string, Conv>> convolutions_;
    std::vector<std::pair<std::string, Tensor>> vectors_;
    ChunkIo first_, next_;
};

}  // namespace quantsparse::models
