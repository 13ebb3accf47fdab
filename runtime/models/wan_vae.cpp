#include "models/wan_vae.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {
namespace {

using kernels::add_pictures;
using kernels::ConvOptions;
using kernels::HeadMatrix;
using kernels::Permutation;
using kernels::Pictures;

/// Copies whole frames between pictures of one shape, at any frame offset.
void copy_frames(Program& program, const std::string& name, Tensor from, Tensor to,
                 int frame_floats, int frames, int from_frame, int to_frame) {
    Permutation copy;
    copy.size[4] = frames * frame_floats;
    copy.in_stride[4] = copy.out_stride[4] = 1;
    copy.in_offset = from_frame * frame_floats;
    copy.out_offset = to_frame * frame_floats;
    kernels::permute(program, name, from, to, copy);
}

/// Progress is told in parts of a chunk.
constexpr int kChunkParts = 100;

}  // namespace

WanVae::WanVae(Program& program, const format::Network& network, Direction direction, int height,
               int width)
    : config_(network.config_as<format::WanVaeConfig>()),
      direction_(direction),
      program_(program),
      weights_(program, false),
      frames_per_cell_(network.geometry.time),
      height_(height),
      width_(width) {
    const std::size_t z = static_cast<std::size_t>(config_.z_dim);
    if (config_.latents_mean.size() != z || config_.latents_std.size() != z) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("the VAE's latents_mean and latents_std must have {} values", z));
    }
    const bool decode = direction == Direction::decode;
    first_ = decode ? build_decoder(true) : build_encoder(true);
    next_ = decode ? build_decoder(false) : build_encoder(false);
}

WanVae::Conv& WanVae::convolution(const std::string& name, int out_channels, const Pictures& like,
                                  int kernel_t, int kernel_y, int kernel_x) {
    for (auto& [known, conv] : convolutions_) {
        if (known == name) return conv;
    }
    Conv conv;
    conv.weight =
        weights_.convolution(name, out_channels, like.channels, kernel_t, kernel_y, kernel_x);
    conv.history_frames = kernel_t - 1;
    if (kernel_t > 1) {
        conv.history = add_pictures(program_, name + ".history", kernel_t - 1, like.channels,
                                    like.height, like.width, program::Lifetime::persistent)
                           .tensor;
    }
    convolutions_.emplace_back(name, conv);
    return convolutions_.back().second;
}

Tensor WanVae::gamma(const std::string& name, int channels) {
    for (const auto& [known, tensor] : vectors_) {
        if (known == name) return tensor;
    }
    vectors_.emplace_back(name, weights_.vector(name, channels));
    return vectors_.back().second;
}

Pictures WanVae::with_history(const std::string& name, int frames, const Pictures& like,
                              int history) {
    return add_pictures(program_, name + ".padded", frames + history, like.channels, like.height,
                        like.width);
}

void WanVae::load_history(Conv& conv, const Pictures& padded) {
    copy_frames(program_, "history", conv.history, padded.tensor, padded.frame_floats(),
                conv.history_frames, 0, 0);
}

void WanVae::store_history(Conv& conv, const Pictures& padded) {
    copy_frames(program_, "history", padded.tensor, conv.history, padded.frame_floats(),
                conv.history_frames, padded.frames - conv.history_frames, 0);
}

Pictures WanVae::norm_conv(const std::string& norm, const std::string& name, const Pictures& x,
                           int out_channels, const Pictures* residual) {
    Conv& conv = convolution(name, out_channels, x, 3, 3, 3);
    const Pictures padded = with_history(name, x.frames, x, 2);
    load_history(conv, padded);
    normalize_channels(program_, "norm_silu", x, gamma(norm + ".gamma", x.channels), padded, true,
                       2);
    store_history(conv, padded);
    const Pictures out = add_pictures(program_, name, x.frames, out_channels, x.height, x.width);
    ConvOptions options;
    options.pad = 1;
    options.residual = residual;
    convolve(program_, "conv3x3x3", padded, conv.weight, out, options);
    return out;
}

Pictures WanVae::causal_conv(const std::string& name, const Pictures& x, int out_channels) {
    Conv& conv = convolution(name, out_channels, x, 3, 3, 3);
    const Pictures padded = with_history(name, x.frames, x, 2);
    load_history(conv, padded);
    copy_frames(program_, "pad", x.tensor, padded.tensor, x.frame_floats(), x.frames, 0, 2);
    store_history(conv, padded);
    const Pictures out = add_pictures(program_, name, x.frames, out_channels, x.height, x.width);
    ConvOptions options;
    options.pad = 1;
    convolve(program_, "conv3x3x3", padded, conv.weight, out, options);
    return out;
}

Pictures WanVae::point_conv(const std::string& name, const Pictures& x, int out_channels,
                            const Pictures* residual) {
    Conv& conv = convolution(name, out_channels, x, 1, 1, 1);
    const Pictures out = add_pictures(program_, name, x.frames, out_channels, x.height, x.width);
    ConvOptions options;
    options.residual = residual;
    convolve(program_, "conv1x1x1", x, conv.weight, out, options);
    return out;
}

Pictures WanVae::residual_block(const std::string& name, const Pictures& x, int out_channels) {
    const Pictures hidden =
        norm_conv(name + ".residual.0", name + ".residual.2", x, out_channels, nullptr);
    const Pictures shortcut =
        x.channels == out_channels ? x : point_conv(name + ".shortcut", x, out_channels);
    return norm_conv(name + ".residual.3", name + ".residual.6", hidden, out_channels, &shortcut);
}

Pictures WanVae::attention_block(const std::string& name, const Pictures& x) {
    // Per frame, one head over all channels (wan fact 14): frames take the place of heads.
    const Pictures normed =
        add_pictures(program_, name + ".normed", x.frames, x.channels, x.height, x.width);
    normalize_channels(program_, "norm", x, gamma(name + ".norm.gamma", x.channels), normed, false);
    const Pictures qkv = point_conv(name + ".to_qkv", normed, 3 * x.channels);
    const auto part = [&](int index) {
        const HeadMatrix heads =
            kernels::add_head_matrix(program_, name + ".part", x.frames, x.plane(), x.channels);
        Permutation p;
        p.size = {1, 1, x.frames, x.plane(), heads.padded_dim};
        p.in_stride = {0, 0, qkv.frame_floats(), 1, x.plane()};
        p.out_stride = {0, 0, heads.token_stride * heads.padded_dim, heads.padded_dim, 1};
        p.in_limit = x.channels;
        p.in_offset = index * x.channels * x.plane();
        kernels::permute(program_, "split_qkv", qkv.tensor, heads.tensor, p);
        return heads;
    };
    const HeadMatrix q = part(0), k = part(1), v = part(2);
    const kernels::Matrix attended =
        kernels::add_matrix(program_, name + ".attended", x.plane(), x.frames * x.channels);
    kernels::AttentionOptions options;
    options.scale = 1.0f / std::sqrt(static_cast<float>(x.channels));
    kernels::attention(program_, "attention", q, k, v, attended, options);
    const Pictures merged =
        add_pictures(program_, name + ".merged", x.frames, x.channels, x.height, x.width);
    Permutation p;
    p.size = {1, 1, x.frames, x.channels, x.plane()};
    p.in_stride = {0, 0, x.channels, 1, attended.stride};
    p.out_stride = {0, 0, x.frame_floats(), x.plane(), 1};
    kernels::permute(program_, "merge_heads", attended.tensor, merged.tensor, p);
    return point_conv(name + ".proj", merged, x.channels, &x);
}

Pictures WanVae::middle(const std::string& name, const Pictures& x) {
    const Pictures a = residual_block(name + ".0", x, x.channels);
    const Pictures b = attention_block(name + ".1", a);
    return residual_block(name + ".2", b, x.channels);
}

Pictures WanVae::upsample(const std::string& name, const Pictures& x, bool temporal, bool first) {
    Pictures frames = x;
    if (temporal) {
        Conv& conv = convolution(name + ".time_conv", 2 * x.channels, x, 3, 1, 1);
        // The first frame is neither doubled nor part of the history of those that follow
        // (wan fact 17).
        if (!first) {
            const Pictures padded = with_history(name, x.frames, x, 2);
            load_history(conv, padded);
            copy_frames(program_, "pad", x.tensor, padded.tensor, x.frame_floats(), x.frames, 0, 2);
            store_history(conv, padded);
            frames = add_pictures(program_, name + ".doubled", 2 * x.frames, x.channels, x.height,
                                  x.width);
            ConvOptions options;
            options.split_frames = true;
            convolve(program_, "time_conv", padded, conv.weight, frames, options);
        }
    }
    Conv& conv = convolution(name + ".resample.1", x.channels / 2, x, 1, 3, 3);
    const Pictures out = add_pictures(program_, name + ".out", frames.frames, x.channels / 2,
                                      2 * x.height, 2 * x.width);
    ConvOptions options;
    options.pad = 1;
    options.enlarge = true;
    convolve(program_, "upsample", frames, conv.weight, out, options);
    return out;
}

Pictures WanVae::downsample(const std::string& name, const Pictures& x, bool temporal, bool first) {
    // Zeros only to the right and below, stride 2 (wan fact 18).
    Conv& spatial = convolution(name + ".resample.1", x.channels, x, 1, 3, 3);
    const Pictures half = add_pictures(program_, name + ".half", x.frames, x.channels,
                                       (x.height + 1 - 3) / 2 + 1, (x.width + 1 - 3) / 2 + 1);
    ConvOptions options;
    options.stride = 2;
    convolve(program_, "downsample", x, spatial.weight, half, options);
    if (!temporal) return half;
    // Kernel 3, stride 2, no padding over the whole sequence (wan fact 16): each chunk needs one
    // frame of the one before; the first frame of all passes through.
    Conv& conv = convolution(name + ".time_conv", x.channels, half, 3, 1, 1);
    if (first) {
        copy_frames(program_, "history", half.tensor, conv.history, half.frame_floats(), 1,
                    half.frames - 1, 0);
        return half;
    }
    const Pictures padded = with_history(name, half.frames, half, 1);
    copy_frames(program_, "history", conv.history, padded.tensor, half.frame_floats(), 1, 0, 0);
    copy_frames(program_, "pad", half.tensor, padded.tensor, half.frame_floats(), half.frames, 0,
                1);
    copy_frames(program_, "history", padded.tensor, conv.history, half.frame_floats(), 1,
                half.frames, 0);
    const Pictures out = add_pictures(program_, name + ".out", half.frames / 2, half.channels,
                                      half.height, half.width);
    ConvOptions stride;
    stride.frame_stride = 2;
    convolve(program_, "time_conv", padded, conv.weight, out, stride);
    return out;
}

void WanVae::keep_frames(const std::string& name, const Pictures& x) {
    kernels::keep(program_, prefix_ + name, x.tensor, x.frames * x.frame_floats());
}

WanVae::ChunkIo WanVae::build_decoder(bool first) {
    ChunkIo io;
    prefix_ = first ? "first." : "next.";
    io.phase = program_.begin_phase(first ? "decode.first" : "decode.next");
    const auto& c = config_;
    io.input = add_pictures(program_, prefix_ + "latent", 1, c.z_dim, height_, width_,
                            program::Lifetime::persistent);
    const Pictures scaled = add_pictures(program_, "latent_scaled", 1, c.z_dim, height_, width_);
    const auto constant = [&](const char* name, const std::vector<float>& values) {
        for (const auto& [known, tensor] : vectors_) {
            if (known == name) return tensor;
        }
        vectors_.emplace_back(name, weights_.computed(name, c.z_dim, [values](const WeightSource&) {
            return values;
        }));
        return vectors_.back().second;
    };
    kernels::scale_channels(program_, "unnormalize", io.input.tensor,
                            constant("latents_std", c.latents_std),
                            constant("latents_mean", c.latents_mean), scaled.tensor,
                            io.input.frame_floats(), c.z_dim, io.input.plane());
    Pictures x = point_conv("conv2", scaled, c.z_dim);
    keep_frames("dec.post_quant", x);
    const int stages = static_cast<int>(c.dim_mult.size());
    x = causal_conv("decoder.conv1", x, c.dim * c.dim_mult.back());
    keep_frames("dec.conv1", x);
    x = middle("decoder.middle", x);
    keep_frames("dec.mid", x);
    int index = 0;
    for (int stage = 0; stage < stages; ++stage) {
        const int out_channels = c.dim * c.dim_mult[static_cast<std::size_t>(stages - 1 - stage)];
        for (int block = 0; block <= c.num_res_blocks; ++block) {
            x = residual_block(fmt::format("decoder.upsamples.{}", index++), x, out_channels);
        }
        if (stage + 1 < stages) {
            // Upstream reverses the encoder's list of temporal stages.
            const bool temporal = c.temporal_downsample[c.temporal_downsample.size() - 1 -
                                                        static_cast<std::size_t>(stage)];
            x = upsample(fmt::format("decoder.upsamples.{}", index++), x, temporal, first);
        }
        keep_frames(fmt::format("dec.stage{}", stage), x);
    }
    const Pictures video = norm_conv("decoder.head.0", "decoder.head.2", x, 3, nullptr);
    io.output = add_pictures(program_, prefix_ + "video", video.frames, 3, video.height,
                             video.width, program::Lifetime::persistent);
    copy_frames(program_, "output", video.tensor, io.output.tensor, video.frame_floats(),
                video.frames, 0, 0);
    return io;
}

WanVae::ChunkIo WanVae::build_encoder(bool first) {
    ChunkIo io;
    prefix_ = first ? "first." : "next.";
    io.phase = program_.begin_phase(first ? "encode.first" : "encode.next");
    const auto& c = config_;
    io.input = add_pictures(program_, prefix_ + "video", first ? 1 : frames_per_cell_, 3, height_,
                            width_, program::Lifetime::persistent);
    const int stages = static_cast<int>(c.dim_mult.size());
    Pictures x = causal_conv("encoder.conv1", io.input, c.dim);
    keep_frames("enc.conv1", x);
    int index = 0;
    for (int stage = 0; stage < stages; ++stage) {
        const int out_channels = c.dim * c.dim_mult[static_cast<std::size_t>(stage)];
        for (int block = 0; block < c.num_res_blocks; ++block) {
            x = residual_block(fmt::format("encoder.downsamples.{}", index++), x, out_channels);
        }
        if (stage + 1 < stages) {
            x = downsample(fmt::format("encoder.downsamples.{}", index++), x,
                           c.temporal_downsample[static_cast<std::size_t>(stage)], first);
        }
        keep_frames(fmt::format("enc.stage{}", stage), x);
    }
    x = middle("encoder.middle", x);
    keep_frames("enc.mid", x);
    x = norm_conv("encoder.head.0", "encoder.head.2", x, 2 * c.z_dim, nullptr);
    keep_frames("enc.head", x);
    const Pictures moments = point_conv("conv1", x, 2 * c.z_dim);
    io.output = add_pictures(program_, prefix_ + "moments", moments.frames, 2 * c.z_dim,
                             moments.height, moments.width, program::Lifetime::persistent);
    copy_frames(program_, "output", moments.tensor, io.output.tensor, moments.frame_floats(),
                moments.frames, 0, 0);
    return io;
}

/// The chunk's frames, frame-major.
std::vector<float> WanVae::chunk_input(const ChunkIo& io, const Clip& input,
                                       int first_frame) const {
    const auto plane = static_cast<std::size_t>(io.input.plane());
    std::vector<float> values;
    values.reserve(static_cast<std::size_t>(io.input.frames * io.input.frame_floats()));
    for (int f = first_frame; f < first_frame + io.input.frames; ++f) {
        for (int c = 0; c < io.input.channels; ++c) {
            const auto begin =
                input.values.begin() +
                static_cast<std::ptrdiff_t>(static_cast<std::size_t>(c * input.frames + f) * plane);
            values.insert(values.end(), begin, begin + static_cast<std::ptrdiff_t>(plane));
        }
    }
    return values;
}

/// What a chunk made, as a clip. Encoding: the mean half, normalised with the reciprocal in fp32 as
/// upstream does (wan facts 20, 21).
Clip WanVae::chunk_output(const ChunkIo& io, program::Executor& executor) const {
    const bool decode = direction_ == Direction::decode;
    const auto plane = static_cast<std::size_t>(io.output.plane());
    const auto result = executor.read_values<float>(
        io.output.tensor, static_cast<std::size_t>(io.output.frames * io.output.frame_floats()));
    Clip out{decode ? 3 : config_.z_dim, io.output.frames, io.output.height, io.output.width, {}};
    out.values.reserve(static_cast<std::size_t>(out.channels * out.frames) * plane);
    for (int c = 0; c < out.channels; ++c) {
        for (int f = 0; f < out.frames; ++f) {
            const auto from =
                result.begin() + static_cast<std::ptrdiff_t>(
                                     static_cast<std::size_t>(f * io.output.channels + c) * plane);
            out.values.insert(out.values.end(), from, from + static_cast<std::ptrdiff_t>(plane));
        }
        if (decode) continue;
        const auto channel = static_cast<std::size_t>(c);
        const auto begin = out.values.end() - static_cast<std::ptrdiff_t>(
                                                  static_cast<std::size_t>(out.frames) * plane);
        std::transform(begin, out.values.end(), begin, [&](float x) {
            return (x - config_.latents_mean[channel]) * (1.0f / config_.latents_std[channel]);
        });
    }
    return out;
}

bool WanVae::run(program::Executor& executor, const Clip& input, const TakeFrames& take,
                 const Between& between,
                 const std::function<void(const std::string&)>& after_chunk) const {
    const int chunks = 1 + (input.frames - 1) / next_.input.frames;
    for (const auto& [name, conv] : convolutions_) {
        if (conv.history.valid()) executor.clear(conv.history);
    }
    int frame = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const ChunkIo& io = chunk == 0 ? first_ : next_;
        const std::vector<float> values = chunk_input(io, input, frame);
        frame += io.input.frames;
        executor.write_values(io.input.tensor, std::span<const float>(values));
        const bool finished = executor.run(io.phase, [&](int done, int total) {
            // Submissions are cut anew as they are measured, so their number is no steady measure.
            return !between ||
                   between(chunk * kChunkParts + done * kChunkParts / total, chunks * kChunkParts);
        });
        if (!finished) return false;
        take(chunk_output(io, executor));
        if (after_chunk) after_chunk(chunk == 0 ? "first." : "next.");
    }
    return true;
}

}  // namespace quantsparse::models
