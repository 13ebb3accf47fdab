#include "pipeline/decode.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "models/registry.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {
namespace {

using models::Clip;
using models::JoinedClip;
using models::TakeFrames;
using models::VideoVae;

/// A decoder or encoder on the device, with its weights.
class VaeOnDevice {
  public:
    VaeOnDevice(vulkan::Device& device, const format::Component& component,
                VideoVae::Direction direction, int height, int width, const StageOptions& options,
                const Between& between)
        : options_(options), program_(device_limits(device)) {
        vae_ = models::video_vae_kind(component.network)
                   .make(program_, component.network, direction, height, width);
        executor_ = std::make_unique<program::Executor>(device, program_,
                                                        static_cast<bool>(options.profile));
        // No progress to speak of, but a chance to cancel.
        loaded_ =
            vae_->weights().upload(*executor_, {component.checkpoint.get(), 0},
                                   [&](int, int total) { return !between || between(0, total); });
    }
    ~VaeOnDevice() { deliver_profile(options_, *executor_); }
    VaeOnDevice(const VaeOnDevice&) = delete;

    /// False when cancelled.
    bool run(const Clip& input, const TakeFrames& take, const Between& between) {
        return loaded_ && vae_->run(*executor_, input, take, between);
    }

  private:
    const StageOptions& options_;
    program::Program program_;
    std::unique_ptr<VideoVae> vae_;
    std::unique_ptr<program::Executor> executor_;
    bool loaded_ = false;
};

/// Where tiles of `tile` cells begin along an axis of `length` cells: evenly spread, the last one
/// ending at the border, so that all have one size and share one Program.
std::vector<int> tile_starts(int length, int tile) {
    if (tile >= length) return {0};
    const int stride = std::max(1, tile * 3 / 4);
    const int count = (length - tile + stride - 1) / stride + 1;
    std::vector<int> starts;
    for (int i = 0; i < count; ++i) starts.push_back((length - tile) * i / (count - 1));
    return starts;
}

/// Weight of pixel i of a tile: falls linearly towards the sides where another tile overlaps.
float ramp(int i, int size, int overlap_before, int overlap_after) {
    float weight = 1.0f;
    if (i < overlap_before)
        weight = (static_cast<float>(i) + 0.5f) / static_cast<float>(overlap_before);
    const int from_end = size - 1 - i;
    if (from_end < overlap_after) {
        weight = std::min(
            weight, (static_cast<float>(from_end) + 0.5f) / static_cast<float>(overlap_after));
    }
    return weight;
}

Clip crop(const Clip& clip, int y, int x, int height, int width) {
    Clip out{clip.channels, clip.frames, height, width, {}};
    out.values.reserve(static_cast<std::size_t>(clip.channels * clip.frames) *
                       static_cast<std::size_t>(height * width));
    for (int plane = 0; plane < clip.channels * clip.frames; ++plane) {
        for (int row = y; row < y + height; ++row) {
            const auto begin =
                clip.values.begin() +
                (static_cast<std::ptrdiff_t>(plane) * clip.height + row) * clip.width + x;
            out.values.insert(out.values.end(), begin, begin + width);
        }
    }
    return out;
}

/// One axis of the tiling, in latent cells.
struct TileAxis {
    std::vector<int> starts;
    int size = 0;

    TileAxis(int length, int tile) : starts(tile_starts(length, tile)), size(tile) {}
    /// Cells that tile i shares with tile j, none where there is no such tile.
    int overlap(std::size_t i, std::size_t j) const {
        if (j >= starts.size()) return 0;
        return std::max(0, size - std::abs(starts[j] - starts[i]));
    }
    /// Weight of a tile's pixels, `factor` of them in a cell.
    std::vector<float> ramps(std::size_t i, int factor) const {
        const int before = overlap(i, i - 1) * factor, after = overlap(i, i + 1) * factor;
        std::vector<float> weights;
        for (int p = 0; p < size * factor; ++p) {
            weights.push_back(ramp(p, size * factor, before, after));
        }
        return weights;
    }
};

/// Sums weighted tiles up to a clip.
class Blend {
  public:
    Blend(int frames, int height, int width)
        : out_{3, frames, height, width, {}},
          weights_(static_cast<std::size_t>(height * width), 0.0f) {
        out_.values.assign(static_cast<std::size_t>(3 * frames) * weights_.size(), 0.0f);
    }

    /// Adds frames of a tile whose first pixel is (x0, y0), weighted by row and by column.
    void add(const Clip& tile, int first_frame, int y0, int x0, const std::vector<float>& of_row,
             const std::vector<float>& of_column) {
        for (int y = 0; y < tile.height; ++y) {
            for (int x = 0; x < tile.width; ++x) {
                const float w =
                    of_row[static_cast<std::size_t>(y)] * of_column[static_cast<std::size_t>(x)];
                const std::size_t target =
                    static_cast<std::size_t>(y0 + y) * static_cast<std::size_t>(out_.width) +
                    static_cast<std::size_t>(x0 + x);
                if (first_frame == 0) weights_[target] += w;
                std::size_t source =
                    static_cast<std::size_t>(y) * static_cast<std::size_t>(tile.width) +
                    static_cast<std::size_t>(x);
                for (int plane = 0; plane < 3 * tile.frames; ++plane) {
                    const int to =
                        plane / tile.frames * out_.frames + first_frame + plane % tile.frames;
                    out_.values[static_cast<std::size_t>(to) * weights_.size() + target] +=
                        w * tile.values[source];
                    source += static_cast<std::size_t>(tile.height * tile.width);
                }
            }
        }
    }

    Clip take() {
        for (std::size_t i = 0; i < out_.values.size(); ++i) {
            out_.values[i] /= weights_[i % weights_.size()];
        }
        return std::move(out_);
    }

  private:
    Clip out_;
    std::vector<float> weights_;
};

/// The whole picture, then ever smaller squares.
std::vector<VaeTile> vae_tiles(int height, int width) {
    std::vector<VaeTile> tiles = {{height, width}};
    for (const int side : {96, 64, 48, 32, 24, 16, 12, 8}) {
        if (side < std::max(height, width)) {
            tiles.push_back({std::min(side, height), std::min(side, width)});
        }
    }
    return tiles;
}

std::uint64_t vae_bytes(const program::Limits& limits, const format::Network& network,
                        const VaeTile& tile) {
    program::Program program(limits);
    const auto vae = models::video_vae_kind(network).make(
        program, network, VideoVae::Direction::decode, tile.height, tile.width);
    return stage_plan("vae", program).total_bytes();
}

}  // namespace

VaeTile choose_vae_tile(const program::Limits& limits, const format::Network& vae, int height,
                        int width, std::uint64_t budget_bytes) {
    std::string reason = "no tile fits";
    for (const VaeTile& tile : vae_tiles(height, width)) {
        try {
            const std::uint64_t bytes = vae_bytes(limits, vae, tile);
            if (budget_bytes == 0 || bytes <= budget_bytes) return tile;
            reason = fmt::format("a tile of {}x{} cells needs {:.0f} MiB", tile.width, tile.height,
                                 static_cast<double>(bytes) / (1 << 20));
        } catch (const Error& error) {
            reason = error.what();
        }
    }
    throw Error(ErrorCode::out_of_memory,
                fmt::format("the VAE does not fit the device: {}; raise the memory limit", reason));
}

std::uint64_t least_vae_bytes(const program::Limits& limits, const format::Network& vae, int height,
                              int width) {
    try {
        return vae_bytes(limits, vae, vae_tiles(height, width).back());
    } catch (const Error&) {
        return 0;
    }
}

bool decode_latents(vulkan::Device& device, const format::Component& vae, const Clip& latents,
                    const VaeTile& tile, const StageOptions& options, const TakeFrames& take,
                    const Between& between) {
    const auto decode = VideoVae::Direction::decode;
    if (tile.height >= latents.height && tile.width >= latents.width) {
        return VaeOnDevice(device, vae, decode, latents.height, latents.width, options, between)
            .run(latents, take, between);
    }
    VaeOnDevice decoder(device, vae, decode, tile.height, tile.width, options, between);
    const format::NetworkGeometry& cells = vae.network.geometry;
    const TileAxis rows(latents.height, tile.height), columns(latents.width, tile.width);
    Blend blend((latents.frames - 1) * cells.time + 1, latents.height * cells.space,
                latents.width * cells.space);
    const int tiles = static_cast<int>(rows.starts.size() * columns.starts.size());
    int done_tiles = 0;
    for (std::size_t r = 0; r < rows.starts.size(); ++r) {
        for (std::size_t c = 0; c < columns.starts.size(); ++c) {
            const int y = rows.starts[r], x = columns.starts[c];
            const auto of_row = rows.ramps(r, cells.space),
                       of_column = columns.ramps(c, cells.space);
            int frame = 0;
            const auto add = [&](const Clip& part) {
                blend.add(part, frame, y * cells.space, x * cells.space, of_row, of_column);
                frame += part.frames;
            };
            const auto part_between = [&](int done, int total) {
                return !between || between(done_tiles * total + done, tiles * total);
            };
            if (!decoder.run(crop(latents, y, x, tile.height, tile.width), add, part_between)) {
                return false;
            }
            ++done_tiles;
        }
    }
    take(blend.take());
    return true;
}

Clip decode_latents(vulkan::Device& device, const format::Component& vae, const Clip& latents,
                    const VaeTile& tile, const StageOptions& options, const Between& between) {
    JoinedClip clip;
    const auto add = [&](const Clip& part) { clip.add(part); };
    return decode_latents(device, vae, latents, tile, options, add, between) ? clip.take() : Clip{};
}

Clip encode_video(vulkan::Device& device, const format::Component& vae, const Clip& video,
                  const StageOptions& options, const Between& between) {
    JoinedClip clip;
    const auto add = [&](const Clip& part) { clip.add(part); };
    VaeOnDevice encoder(device, vae, VideoVae::Direction::encode, video.height, video.width,
                        options, between);
    return encoder.run(video, add, between) ? clip.take() : Clip{};
}

std::vector<std::uint8_t> to_rgb8(const Clip& video) {
    const std::size_t pixels = static_cast<std::size_t>(video.frames) *
                               static_cast<std::size_t>(video.height * video.width);
    std::vector<std::uint8_t> rgb(pixels * 3);
    for (std::size_t i = 0; i < pixels; ++i) {
        for (std::size_t c = 0; c < 3; ++c) {
            const float x = std::clamp(video.values[c * pixels + i], -1.0f, 1.0f);
            rgb[i * 3 + c] = static_cast<std::uint8_t>((x + 1.0f) / 2.0f * 255.0f);
        }
    }
    return rgb;
}

}  // namespace quantsparse::pipeline
