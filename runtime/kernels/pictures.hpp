// Operations of the video VAE on frame-major pictures [frames, channels, height, width].
#pragma once

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

/// fp32 [frames, channels, height, width].
struct Pictures {
    Tensor tensor;
    int frames = 0;
    int channels = 0;
    int height = 0;
    int width = 0;

    int plane() const { return height * width; }
    int frame_floats() const { return channels * plane(); }
    std::uint64_t bytes() const {
        return static_cast<std::uint64_t>(frames) * static_cast<std::uint64_t>(frame_floats()) * 4;
    }
};
Pictures add_pictures(Program& program, const std::string& name, int frames, int channels,
                      int height, int width,
                      program::Lifetime lifetime = program::Lifetime::transient);

/// Weights [kt, ky, kx, in, round_up(out, 8)] and bias [round_up(out, 8)], fp32.
struct ConvWeight {
    std::string name;
    int out_channels = 0;
    int in_channels = 0;
    int kernel_t = 1;
    int kernel_y = 1;
    int kernel_x = 1;
    Tensor weights;
    Tensor bias;
};
ConvWeight add_conv_weight(Program& program, const std::string& name, int out_channels,
                           int in_channels, int kernel_t, int kernel_y, int kernel_x);

struct ConvOptions {
    int stride = 1;        ///< in space
    int frame_stride = 1;  ///< in time
    int pad = 0;  ///< zeros before the first row and column; after the last as many as needed
    bool enlarge = false;       ///< read a nearest-neighbour 2x enlargement of the input
    bool split_frames = false;  ///< write channels [C/2, C) as the odd frames of C/2 channels
    const Pictures* residual = nullptr;
};

/// `out` holds one frame for every frame_stride frames of `input` after the kernel's history
/// (split_frames: two of half the channels).
void convolve(Program& program, const std::string& name, const Pictures& input,
              const ConvWeight& weight, const Pictures& out, const ConvOptions& options = {});

/// out = x / max(||x||, 1e-12) * sqrt(channels) * gamma over channels, then SiLU when asked
/// (wan fact 12). Written from frame `first_frame` of `out` on: before it lies the history of a
/// causal convolution.
void normalize_channels(Program& program, const std::string& name, const Pictures& input,
                        Tensor gamma, const Pictures& out, bool silu, int first_frame = 0);

}  // namespace quantsparse::kernels
