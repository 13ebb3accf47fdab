#include "pipeline/stages.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "quantsparse/error.hpp"
#include "vulkan/arena.hpp"

namespace quantsparse::pipeline {
namespace {

using models::Clip;
using models::WanVae;

void deliver_profile(const StageOptions& options, const program::Executor& executor) {
    if (options.profile) options.profile(executor.profile());
}

Clip run_vae(vulkan::Device& device, const format::WanVaeConfig& config,
             const format::Checkpoint& checkpoint, WanVae::Direction direction, const Clip& input,
             const StageOptions& options, const Between& between) {
    program::Program program(device_limits(device));
    const WanVae vae(program, config, direction, input.height, input.width);
    program::Executor executor(device, program, static_cast<bool>(options.profile));
    vae.weights().upload(executor, {&checkpoint, 0});
    Clip out = vae.run(executor, input, between);
    deliver_profile(options, executor);
    return out;
}

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

std::uint64_t vae_bytes(const program::Limits& limits, const format::WanVaeConfig& config,
                        const VaeTile& tile) {
    program::Program program(limits);
    const WanVae vae(program, config, WanVae::Direction::decode, tile.height, tile.width);
    return stage_plan("vae", program).total_bytes();
}

}  // namespace

program::Limits device_limits(const vulkan::Device& device) {
    const auto& capabilities = device.capabilities();
    program::Limits limits =
        program::limits_of(capabilities.info, capabilities.storage_alignment, device.arithmetic());
    if (device.tuning() && device.tuning()->arithmetic == device.arithmetic()) {
        limits.product_lanes = device.tuning()->product_lanes;
        limits.product_rows = device.tuning()->product_rows;
        limits.preferred_matrix_tile = device.tuning()->matrix_tile;
    }
    return limits;
}

std::vector<float> encode_tokens(vulkan::Device& device, const format::Umt5Config& config,
                                 const format::Checkpoint& checkpoint, const std::vector<int>& ids,
                                 int valid, const StageOptions& options, const Between& between) {
    // The valid tokens alone give the same rows as the padded, masked sequence (umt5 fact 28).
    program::Program program(device_limits(device));
    const models::Umt5Encoder encoder(program, config, valid, valid, options.half);
    program::Executor executor(device, program, static_cast<bool>(options.profile));
    auto hidden = encoder.encode(executor, checkpoint, {ids.begin(), ids.begin() + valid}, between);
    deliver_profile(options, executor);
    return hidden;
}

models::WanDitOptions dit_options(const format::ModelBundle& bundle, const LatentShape& latent,
                                  int branches, bool half,
                                  const attention::StepSchedule* schedule) {
    models::WanDitOptions options;
    options.config = bundle.transformer_config;
    options.weight_bits = bundle.weight_bits;
    options.activation_bits = bundle.activation_bits;
    if (bundle.weight_bits < 16 && bundle.transformer) {
        options.transforms = models::input_transforms_of(*bundle.transformer, options.config);
    }
    options.latent_frames = latent.frames;
    options.latent_height = latent.height;
    options.latent_width = latent.width;
    options.branches = branches;
    options.half = half;
    if (schedule) {
        using attention::StepKind;
        options.attention = schedule->parameters();
        options.step_kinds.clear();
        for (const StepKind kind :
             {StepKind::dense, StepKind::refresh, StepKind::sparse, StepKind::reused}) {
            if (schedule->has(kind)) options.step_kinds.push_back(kind);
        }
    }
    return options;
}

Denoiser::Denoiser(vulkan::Device& device, const format::ModelBundle& bundle,
                   const LatentShape& latent, int branches, const StageOptions& options,
                   const attention::StepSchedule* schedule, const program::Residency& residency,
                   const Between& between)
    : options_(options),
      latent_(latent),
      config_(bundle.transformer_config),
      program_(device_limits(device)) {
    dit_ = std::make_unique<models::WanDit>(
        program_, dit_options(bundle, latent, branches, options.half, schedule));
    executor_ = std::make_unique<program::Executor>(
        device, program_, static_cast<bool>(options.profile), false, residency);
    if (schedule) schedule_ = *schedule;
    dit_->reset(*executor_);
    loaded_ = dit_->weights().upload(*executor_, {bundle.transformer.get(), 0}, between);
}

Denoiser::~Denoiser() {
    deliver_profile(options_, *executor_);
}

bool Denoiser::set_context(int branch, std::span<const float> hidden, const Between& between) {
    const models::Matrix context = dit_->context();
    const std::size_t dim = static_cast<std::size_t>(config_.text_dim);
    const std::size_t rows = hidden.size() / dim;
    if (rows > static_cast<std::size_t>(config_.text_len)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("the prompt has {} tokens, the model takes {}", rows, config_.text_len));
    }
    // Padded with zeros before the text MLP; the padding is attended to (wan fact 8).
    std::vector<float> padded(
        static_cast<std::size_t>(config_.text_len) * static_cast<std::size_t>(context.stride),
        0.0f);
    for (std::size_t r = 0; r < rows; ++r) {
        std::copy_n(hidden.begin() + static_cast<std::ptrdiff_t>(r * dim), dim,
                    padded.begin() +
                        static_cast<std::ptrdiff_t>(r * static_cast<std::size_t>(context.stride)));
    }
    executor_->write_values(context.tensor, std::span<const float>(padded));
    return executor_->run(dit_->text_phase(branch), between);
}

void Denoiser::begin_step(int step) {
    if (!schedule_) return;
    kind_ = schedule_->kind(step);
    const auto* residuals = dit_->residuals();
    if (residuals && kind_ != attention::StepKind::reused) {
        const attention::Correction correction = schedule_->correction(step);
        for (int b = 0; b < residuals->branches(); ++b) {
            residuals->write(*executor_, b, correction);
        }
    }
}

std::vector<AttentionLayer> Denoiser::attention_layers() const {
    std::vector<AttentionLayer> layers;
    if (const auto* residuals = dit_->residuals()) {
        for (const auto& r : residuals->report(*executor_)) {
            layers.push_back({r.layer, r.branch, r.types, r.flips, r.refused, r.non_finite});
        }
    }
    return layers;
}

std::vector<float> Denoiser::velocity(int branch, std::span<const float> latent, double timestep,
                                      const Between& between) {
    executor_->write_values(dit_->latent(), latent);
    const auto sinusoid = dit_->time_sinusoid(timestep);
    executor_->write_values(dit_->sinusoid(), std::span<const float>(sinusoid));
    if (!executor_->run(dit_->step_phase(branch, kind_), between)) return {};
    return executor_->read_values<float>(dit_->velocity(branch), latent_.count());
}

VaeTile choose_vae_tile(const program::Limits& limits, const format::WanVaeConfig& config,
                        int height, int width, std::uint64_t budget_bytes) {
    std::string reason = "no tile fits";
    for (const VaeTile& tile : vae_tiles(height, width)) {
        try {
            const std::uint64_t bytes = vae_bytes(limits, config, tile);
            if (budget_bytes == 0 || bytes <= budget_bytes) return tile;
            reason = fmt::format("a tile of {}x{} cells needs {:.0f} MiB", tile.width, tile.height,
                                 static_cast<double>(bytes) / (1 << 20));
        } catch (const Error& error) {
            reason = error.what();
        }
    }
    throw Error(ErrorCode::out_of_memory,
                fmt::format("the VAE does not fit the device: {}; raise --memory-limit", reason));
}

std::uint64_t least_vae_bytes(const program::Limits& limits, const format::WanVaeConfig& config,
                              int height, int width) {
    try {
        return vae_bytes(limits, config, vae_tiles(height, width).back());
    } catch (const Error&) {
        return 0;
    }
}

Clip decode_latents(vulkan::Device& device, const format::WanVaeConfig& config,
                    const format::Checkpoint& checkpoint, const Clip& latents, const VaeTile& tile,
                    const StageOptions& options, const Between& between) {
    if (tile.height >= latents.height && tile.width >= latents.width) {
        return run_vae(device, config, checkpoint, WanVae::Direction::decode, latents, options,
                       between);
    }
    program::Program program(device_limits(device));
    const WanVae vae(program, config, WanVae::Direction::decode, tile.height, tile.width);
    program::Executor executor(device, program, static_cast<bool>(options.profile));
    vae.weights().upload(executor, {&checkpoint, 0});

    const int factor = models::spatial_factor(config);
    const auto rows = tile_starts(latents.height, tile.height);
    const auto columns = tile_starts(latents.width, tile.width);
    Clip out{3, 0, latents.height * factor, latents.width * factor, {}};
    std::vector<float> weights(static_cast<std::size_t>(out.height * out.width), 0.0f);
    const int tiles = static_cast<int>(rows.size() * columns.size());
    int done_tiles = 0;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        for (std::size_t c = 0; c < columns.size(); ++c) {
            const Clip decoded =
                vae.run(executor, crop(latents, rows[r], columns[c], tile.height, tile.width),
                        [&](int done, int total) {
                            return !between || between(done_tiles * total + done, tiles * total);
                        });
            if (decoded.values.empty()) return {};
            ++done_tiles;
            if (out.frames == 0) {
                out.frames = decoded.frames;
                out.values.assign(static_cast<std::size_t>(3 * out.frames) * weights.size(), 0.0f);
            }
            const auto overlap = [&](const std::vector<int>& starts, std::size_t i, std::size_t j,
                                     int size) {
                if (j >= starts.size()) return 0;
                const int gap = std::abs(starts[j] - starts[i]);
                return std::max(0, size - gap) * factor;
            };
            const int up = overlap(rows, r, r - 1, tile.height);
            const int down = overlap(rows, r, r + 1, tile.height);
            const int left = overlap(columns, c, c - 1, tile.width);
            const int right = overlap(columns, c, c + 1, tile.width);
            const int y0 = rows[r] * factor, x0 = columns[c] * factor;
            for (int y = 0; y < decoded.height; ++y) {
                const float wy = ramp(y, decoded.height, up, down);
                for (int x = 0; x < decoded.width; ++x) {
                    const float w = wy * ramp(x, decoded.width, left, right);
                    const std::size_t target =
                        static_cast<std::size_t>(y0 + y) * static_cast<std::size_t>(out.width) +
                        static_cast<std::size_t>(x0 + x);
                    weights[target] += w;
                    for (std::size_t plane = 0; plane < static_cast<std::size_t>(3 * out.frames);
                         ++plane) {
                        out.values[plane * weights.size() + target] +=
                            w * decoded.values[(plane * static_cast<std::size_t>(decoded.height) +
                                                static_cast<std::size_t>(y)) *
                                                   static_cast<std::size_t>(decoded.width) +
                                               static_cast<std::size_t>(x)];
                    }
                }
            }
        }
    }
    for (std::size_t i = 0; i < out.values.size(); ++i)
        out.values[i] /= weights[i % weights.size()];
    deliver_profile(options, executor);
    return out;
}

Clip encode_video(vulkan::Device& device, const format::WanVaeConfig& config,
                  const format::Checkpoint& checkpoint, const Clip& video,
                  const StageOptions& options, const Between& between) {
    return run_vae(device, config, checkpoint, WanVae::Direction::encode, video, options, between);
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

StagePlan stage_plan(const char* name, const program::Program& program,
                     const program::Residency& residency) {
    using Kind = program::StreamGroup::Kind;
    const program::Plan plan = program::make_plan(program, residency);
    StagePlan stage;
    stage.stage = name;
    stage.weight_bytes = plan.constant_bytes;
    stage.residual_bytes = plan.device_bytes_of_kind[static_cast<std::size_t>(Kind::residuals)];
    stage.activation_bytes = plan.working_bytes - stage.residual_bytes;
    stage.staging_bytes = vulkan::Arena::kStagingBytes;
    stage.largest_binding_bytes = plan.largest_binding_bytes;
    stage.operations = program.operations().size();
    for (const std::uint64_t bytes : plan.host_bytes_of_kind) stage.host_bytes += bytes;
    stage.residency = program::describe(program, residency);
    return stage;
}

StagesPlan plan_stages(const program::Limits& limits, const format::ModelBundle& bundle,
                       const models::WanDitOptions& transformer, std::uint64_t budget_bytes) {
    StagesPlan result;
    MemoryPlan& plan = result.memory;
    plan.budget_bytes = budget_bytes;
    const auto add = [&plan](const StagePlan& stage, std::uint64_t least) {
        plan.stages.push_back(stage);
        plan.peak_bytes = std::max(plan.peak_bytes, stage.total_bytes());
        plan.least_bytes = std::max(plan.least_bytes, least);
    };
    {
        program::Program program(limits);
        const models::Umt5Encoder encoder(program, bundle.text_encoder_config,
                                          bundle.transformer_config.text_len,
                                          bundle.transformer_config.text_len, transformer.half);
        StagePlan stage = stage_plan("text_encoder", program);
        stage.residency = "one layer at a time";
        add(stage, stage.total_bytes());
    }
    {
        program::Program program(limits);
        const models::WanDit dit(program, transformer);
        constexpr std::uint64_t kStaging = vulkan::Arena::kStagingBytes;
        // One byte is no budget: everything that can be streamed is.
        const auto least = program::choose_residency(program, 1);
        const auto within = [&](std::uint64_t bytes) {
            return program::choose_residency(program, bytes > kStaging ? bytes - kStaging : 1);
        };
        if (budget_bytes) result.residency = within(budget_bytes);
        plan.resident_bytes = stage_plan("dit", program).total_bytes();
        add(stage_plan("dit", program, result.residency),
            stage_plan("dit", program, least).total_bytes());
    }
    {
        const int height = transformer.latent_height, width = transformer.latent_width;
        const std::uint64_t least = least_vae_bytes(limits, bundle.vae_config, height, width);
        // A budget below the least is refused later, with all stages known.
        const std::uint64_t budget = budget_bytes ? std::max(budget_bytes, least) : 0;
        result.tile = choose_vae_tile(limits, bundle.vae_config, height, width, budget);
        program::Program program(limits);
        const WanVae vae(program, bundle.vae_config, WanVae::Direction::decode, result.tile.height,
                         result.tile.width);
        StagePlan stage = stage_plan("vae", program);
        const bool tiled = result.tile.height < height || result.tile.width < width;
        stage.residency = tiled ? fmt::format("tiles of {}x{} of {}x{} latent cells",
                                              result.tile.width, result.tile.height, width, height)
                                : "the whole picture at once";
        add(stage, least);
    }
    return result;
}

}  // namespace quantsparse::pipeline
