// The Wan video VAE as Programs that stream through time (upstream: wan/modules/vae.py;
// wan facts 12-22): a phase for the first latent frame and one for each later one, with the last
// two input frames of every causal convolution kept between runs. Pictures are frame-major, fp32.
#pragma once

#include <functional>
#include <vector>

#include "format/networks/wan_vae.hpp"
#include "models/video_vae.hpp"

namespace quantsparse::models {

/// Encoding drops trailing frames beyond 4n + 1.
class WanVae final : public VideoVae {
  public:
    /// `height`, `width`: of the input: pixels when encoding, latent cells when decoding.
    WanVae(Program& program, const format::Network& network, Direction direction, int height,
           int width);

    const WeightSet& weights() const override { return weights_; }
    bool run(program::Executor& executor, const Clip& input, const TakeFrames& take,
             const Between& between = {},
             const std::function<void(const std::string&)>& after_chunk = {}) const override;

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

    std::vector<float> chunk_input(const ChunkIo& io, const Clip& input, int first_frame) const;
    Clip chunk_output(const ChunkIo& io, program::Executor& executor) const;
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
    int frames_per_cell_;  ///< of a latent cell, after the first
    int height_, width_;
    std::string prefix_;  ///< of kept intermediates
    std::vector<std::pair<std::string, Conv>> convolutions_;
    std::vector<std::pair<std::string, Tensor>> vectors_;
    ChunkIo first_, next_;
};

}  // namespace quantsparse::models
