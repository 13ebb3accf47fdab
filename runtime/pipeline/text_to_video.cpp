#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>

#include "attention/low_rank.hpp"
#include "attention/step_schedule.hpp"
#include "format/checkpoint.hpp"
#include "format/model_file.hpp"
#include "format/tokenizer.hpp"
#include "models/wan_step_changes.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"
#include "sampling/scheduler.hpp"
#include "sampling/step_cache.hpp"
#include "vulkan/device.hpp"

namespace quantsparse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kMaxSide = 8192;
constexpr int kMaxFrames = 4097;
constexpr int kMaxSteps = 1000;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

sampling::SamplerKind kind_of(Sampler sampler) {
    switch (sampler) {
        case Sampler::dpmpp:
            return sampling::SamplerKind::dpmpp;
        case Sampler::euler:
            return sampling::SamplerKind::euler;
        default:
            return sampling::SamplerKind::unipc;
    }
}

/// `what` is asked for only when needed: naming the layer reads from the device.
void require_finite(std::span<const float> values, const std::function<std::string()>& what) {
    for (const float value : values) {
        if (!std::isfinite(value)) {
            throw Error(
                ErrorCode::non_finite,
                fmt::format("{} holds NaN or infinity: the checkpoint is damaged or the driver "
                            "computes wrongly; try --storage fp32 or another --device",
                            what()));
        }
    }
}

void require_finite(std::span<const float> values, const std::string& what) {
    require_finite(values, [&] { return what; });
}

void check_attention(const AttentionParameters& a) {
    const auto fail = [](const std::string& message) {
        throw Error(ErrorCode::invalid_argument, message);
    };
    if (!(a.density > 0 && a.density <= 1)) {
        fail(fmt::format("attention density {} makes no sense: choose more than 0 and at most 1",
                         a.density));
    }
    if (a.block_size != 0 && a.block_size != 32 && a.block_size != 64 && a.block_size != 128) {
        fail(fmt::format("blocks of {} tokens can't be run: choose 32, 64 or 128", a.block_size));
    }
    if (a.ssar_rank < 1 || a.ssar_rank > attention::kMaxRank) {
        fail(fmt::format("rank {} can't be run: choose 1 to {}", a.ssar_rank, attention::kMaxRank));
    }
    if (a.refresh_interval < 1) {
        fail(
            fmt::format("a refresh interval of {} steps makes no sense: choose 1 or more, for "
                        "example 5",
                        a.refresh_interval));
    }
    if (a.dense_layers < 0) fail("the number of dense layers must be 0 or more");
    const bool higher = a.ssar == SsarMode::second || a.ssar == SsarMode::third;
    if (a.residual == ResidualStorage::low_rank && higher) {
        fail("low-rank residuals hold no history: use the correction first or svd with them");
    }
    if (a.ssar == SsarMode::third && a.ssar_span == SsarSpan::adjacent) {
        fail("third order needs evenly spaced references: use the span refs with it");
    }
}

/// A clip in which no frame shows anything is a failure, never a success.
void require_picture(const Video& video) {
    const std::size_t frame = static_cast<std::size_t>(video.width * video.height) * 3;
    for (int f = 0; f < video.frames; ++f) {
        for (std::size_t c = 0; c < 3; ++c) {
            int low = 255, high = 0;
            for (std::size_t i = c; i < frame; i += 3) {
                const int value = video.rgb[static_cast<std::size_t>(f) * frame + i];
                low = std::min(low, value);
                high = std::max(high, value);
            }
            if (high - low > 3) return;
        }
    }
    throw Error(
        ErrorCode::non_finite,
        "every frame of the result is one flat colour: the checkpoint is damaged, or the number of "
        "steps is too small; nothing was written");
}

std::string nearest_frames(int frames, int factor) {
    const int below = std::max(1, (frames - 1) / factor * factor + 1);
    return fmt::format("{} or {}", below, below + factor);
}

}  // namespace

struct TextToVideo::Impl {
    Impl(const std::filesystem::path& model, Device& device_in, const PipelineOptions& options_in)
        : device(device_in.internal()),
          options(options_in),
          bundle(format::open_model(model)),
          tokenizer(std::span<const std::byte>(bundle.tokenizer)) {
        summary.architecture = bundle.architecture;
        summary.quantization = bundle.quantization;
        const format::LinearBytes bytes =
            format::linear_bytes(*bundle.transformer, bundle.transformer_config);
        summary.transformer_linear_bytes = bytes.stored;
        summary.transformer_linear_bf16_bytes = bytes.bf16;
        summary.native_width = bundle.native_width;
        summary.native_height = bundle.native_height;
        summary.native_frames = bundle.native_frames;
        summary.fps = bundle.fps;
        summary.default_steps = bundle.steps;
        summary.default_guidance_scale = bundle.guidance_scale;
        summary.default_flow_shift = bundle.flow_shift;
    }

    int pixel_multiple_y() const {
        return models::spatial_factor(bundle.vae_config) * bundle.transformer_config.patch_size[1];
    }
    int pixel_multiple_x() const {
        return models::spatial_factor(bundle.vae_config) * bundle.transformer_config.patch_size[2];
    }

    GenerationParameters resolve(GenerationParameters p) const {
        const auto fail = [](const std::string& message) -> void {
            throw Error(ErrorCode::invalid_argument, message);
        };
        if (p.width == 0) p.width = bundle.native_width;
        if (p.height == 0) p.height = bundle.native_height;
        if (p.frames == 0) p.frames = bundle.native_frames;
        if (p.steps == 0) p.steps = bundle.steps;
        if (p.guidance_scale < 0) p.guidance_scale = bundle.guidance_scale;
        if (p.flow_shift == 0) p.flow_shift = bundle.flow_shift;
        const auto check_side = [&](const char* name, int value, int multiple) {
            if (value < multiple || value > kMaxSide || value % multiple) {
                const int below = std::clamp(value / multiple * multiple, multiple,
                                             kMaxSide / multiple * multiple);
                fail(fmt::format(
                    "{} {} can't be generated: it must be a multiple of {} between {} and {}, "
                    "for example {}",
                    name, value, multiple, multiple, kMaxSide, below));
            }
        };
        check_side("width", p.width, pixel_multiple_x());
        check_side("height", p.height, pixel_multiple_y());
        const int factor = models::temporal_factor(bundle.vae_config);
        if (p.frames < 1 || p.frames > kMaxFrames || (p.frames - 1) % factor) {
            fail(fmt::format(
                "{} frames can't be generated: the number must be {}n + 1 and at most {}, for "
                "example {}",
                p.frames, factor, kMaxFrames,
                nearest_frames(std::clamp(p.frames, 1, kMaxFrames - factor), factor)));
        }
        if (p.steps < 1 || p.steps > kMaxSteps) {
            fail(fmt::format("{} steps can't be run: choose 1 to {}", p.steps, kMaxSteps));
        }
        if (!std::isfinite(p.guidance_scale) || p.guidance_scale > 100) {
            fail(fmt::format("guidance scale {} makes no sense: choose 1 to 20", p.guidance_scale));
        }
        if (!(p.flow_shift > 0) || p.flow_shift > 1000) {
            fail(fmt::format("flow shift {} makes no sense: choose 1 to 20", p.flow_shift));
        }
        if (!(p.step_cache >= 0) || p.step_cache > 100) {
            fail(
                fmt::format("a step cache threshold of {} makes no sense: choose 0 (off) or a "
                            "little more, for example 0.08",
                            p.step_cache));
        }
        check_attention(p.attention);
        if (p.attention.kind == AttentionKind::sparse) {
            p.attention.dense_steps = attention::resolved_dense_steps(p.attention, p.steps);
        }
        return p;
    }

    static std::unique_ptr<sampling::Scheduler> scheduler(const GenerationParameters& p) {
        return sampling::make_scheduler(kind_of(p.sampler), p.steps, p.flow_shift);
    }
    attention::StepSchedule schedule(const GenerationParameters& p) const {
        const auto sampler = scheduler(p);
        const auto& sigmas = sampler->sigmas();  // one more than steps: the last is clean data
        std::vector<bool> reused;
        if (p.step_cache > 0) {
            const auto changes = models::wan_step_changes(
                {bundle.transformer.get(), 0}, bundle.transformer_config, sampler->timesteps());
            reused = sampling::reused_steps(changes, p.step_cache);
        }
        return attention::StepSchedule(p.attention, std::span(sigmas).first(sigmas.size() - 1),
                                       reused);
    }

    pipeline::LatentShape latent_shape(const GenerationParameters& p) const {
        const int factor = models::spatial_factor(bundle.vae_config);
        return {bundle.transformer_config.in_dim,
                (p.frames - 1) / models::temporal_factor(bundle.vae_config) + 1, p.height / factor,
                p.width / factor};
    }

    static int branches(const GenerationParameters& p) { return p.guidance_scale == 1.0 ? 1 : 2; }

    pipeline::StagesPlan plan(const GenerationParameters& p,
                              const attention::StepSchedule& steps) const {
        return pipeline::plan_stages(
            pipeline::device_limits(device), bundle,
            pipeline::dit_options(bundle, latent_shape(p), branches(p),
                                  options.storage == Storage::half, &steps),
            device.memory_budget());
    }

    pipeline::StageOptions stage_options(const char* stage) {
        pipeline::StageOptions result;
        result.half = options.storage == Storage::half;
        if (options.profile) {
            result.profile = [this,
                              stage](const std::vector<program::OperationProfile>& operations) {
                for (const auto& operation : operations) {
                    profile.push_back(
                        {stage, operation.name, operation.calls, operation.milliseconds});
                }
            };
        }
        return result;
    }

    /// The tile for previews, which are decoded in what the transformer leaves of the budget.
    std::optional<pipeline::VaeTile> tile_beside(const MemoryPlan& plan,
                                                 const pipeline::LatentShape& shape,
                                                 const GenerationCallbacks& callbacks) const {
        if (!callbacks.preview) return std::nullopt;
        const pipeline::VaeTile whole{shape.height, shape.width};
        if (plan.budget_bytes == 0) return whole;
        for (const StagePlan& stage : plan.stages) {
            if (stage.stage != "dit") continue;
            const std::uint64_t left = plan.budget_bytes - stage.total_bytes();
            const auto limits = pipeline::device_limits(device);
            const std::uint64_t least =
                pipeline::least_vae_bytes(limits, bundle.vae_config, shape.height, shape.width);
            if (left >= least) {
                return pipeline::choose_vae_tile(limits, bundle.vae_config, shape.height,
                                                 shape.width, left);
            }
        }
        if (callbacks.warning) {
            callbacks.warning("there are no previews: the transformer leaves them no memory");
        }
        return std::nullopt;
    }

    std::optional<Video> generate(const GenerationParameters& p,
                                  const GenerationCallbacks& callbacks);

    vulkan::Device& device;
    PipelineOptions options;
    format::ModelBundle bundle;
    format::Tokenizer tokenizer;
    ModelSummary summary;
    std::vector<OperationTime> profile;
    std::vector<StageTime> stage_times;
    std::vector<AttentionLayer> attention_layers;
};

namespace {

/// Turns submissions done into progress with an estimate of what remains. Stages differ in speed,
/// so the estimate is of denoising alone until its first step is over, then adds what decoding took
/// per unit of the denoiser's work last time: unknown before, so it is left out.
class ProgressReporter {
  public:
    explicit ProgressReporter(const GenerationCallbacks& callbacks) : callbacks_(callbacks) {}

    void begin_stage(const char* stage) {
        stage_ = stage;
        stage_start_ = Clock::now();
    }
    /// `fraction` of the stage is over; false cancels.
    bool report(int done, int total, double fraction) {
        if (!callbacks_.progress) return true;
        Progress progress;
        progress.stage = stage_;
        progress.done = done;
        progress.total = total;
        progress.elapsed_seconds = seconds_since(start_);
        if (fraction > 0.02) {
            progress.remaining_seconds = seconds_since(stage_start_) * (1.0 - fraction) / fraction;
        }
        return callbacks_.progress(progress);
    }
    pipeline::Between between() {
        return [this](int done, int total) {
            return report(done, total, static_cast<double>(done) / std::max(1, total));
        };
    }

  private:
    const GenerationCallbacks& callbacks_;
    const char* stage_ = "";
    Clock::time_point start_ = Clock::now();
    Clock::time_point stage_start_ = Clock::now();
};

}  // namespace

std::optional<Video> TextToVideo::Impl::generate(const GenerationParameters& requested,
                                                 const GenerationCallbacks& callbacks) {
    const GenerationParameters p = resolve(requested);
    const attention::StepSchedule steps = schedule(p);
    const pipeline::StagesPlan stages = plan(p, steps);
    stages.memory.require_fit();
    if (callbacks.plan) callbacks.plan(stages.memory);
    profile.clear();
    stage_times.clear();
    attention_layers.clear();
    ProgressReporter reporter(callbacks);
    auto stage_start = Clock::now();
    const auto finish_stage = [&](const char* stage) {
        stage_times.push_back({stage, seconds_since(stage_start)});
        stage_start = Clock::now();
    };
    const pipeline::LatentShape shape = latent_shape(p);
    const int branch_count = branches(p);

    reporter.begin_stage("text");
    std::vector<std::vector<float>> contexts;
    for (int b = 0; b < branch_count; ++b) {
        const format::TokenIds tokens = tokenizer.encode(b == 0 ? p.prompt : p.negative_prompt,
                                                         bundle.transformer_config.text_len);
        if (tokens.truncated && callbacks.warning) {
            callbacks.warning(fmt::format("the {} is longer than {} tokens: the rest was cut off",
                                          b == 0 ? "prompt" : "negative prompt",
                                          bundle.transformer_config.text_len));
        }
        contexts.push_back(pipeline::encode_tokens(
            device, bundle.text_encoder_config, *bundle.text_encoder, tokens.ids,
            tokens.valid_count, stage_options("text"), reporter.between()));
        if (contexts.back().empty()) return std::nullopt;
        require_finite(contexts.back(), "the text encoder's output");
    }
    finish_stage("text");

    std::vector<float> latent(shape.count());
    sampling::fill_gaussian(p.seed, latent);
    const auto sampler = scheduler(p);
    {
        reporter.begin_stage("load");
        pipeline::Denoiser denoiser(device, bundle, shape, branch_count, stage_options("denoise"),
                                    &steps, stages.residency, reporter.between());
        if (!denoiser.loaded()) return std::nullopt;
        for (int b = 0; b < branch_count; ++b) {
            if (!denoiser.set_context(b, contexts[static_cast<std::size_t>(b)],
                                      reporter.between())) {
                return std::nullopt;
            }
        }
        finish_stage("load");
        const auto preview_tile = tile_beside(stages.memory, shape, callbacks);
        reporter.begin_stage("denoise");
        for (int step = 0; step < p.steps; ++step) {
            std::vector<std::vector<float>> velocity;
            denoiser.begin_step(step);
            for (int b = 0; b < branch_count; ++b) {
                velocity.push_back(denoiser.velocity(
                    b, latent, sampler->timesteps()[static_cast<std::size_t>(step)],
                    [&](int done, int total) {
                        const double part = (b + static_cast<double>(done) / total) / branch_count;
                        return reporter.report(step, p.steps, (step + part) / p.steps);
                    }));
                if (velocity.back().empty()) return std::nullopt;
                require_finite(velocity.back(), [&] {
                    const std::string site = denoiser.non_finite_site();
                    return fmt::format("the transformer's output at step {}{}{}", step + 1,
                                       site.empty() ? "" : ", from ", site);
                });
            }
            if (branch_count == 2) {
                sampling::apply_guidance(velocity[0], velocity[1],
                                         static_cast<float>(p.guidance_scale));
            }
            sampler->step(latent, velocity[0]);
            if (!reporter.report(step + 1, p.steps, (step + 1.0) / p.steps)) return std::nullopt;
            if (preview_tile && callbacks.preview_interval > 0 &&
                (step + 1) % callbacks.preview_interval == 0 && step + 1 < p.steps) {
                // The clip's first frame as it is heading, decoded as a picture of its own.
                models::Clip first{shape.channels, 1, shape.height, shape.width, {}};
                const auto& prediction = sampler->data_prediction();
                const std::size_t plane = static_cast<std::size_t>(shape.height * shape.width);
                for (int c = 0; c < shape.channels; ++c) {
                    for (std::size_t i = 0; i < plane; ++i) {
                        first.values.push_back(static_cast<float>(
                            prediction[static_cast<std::size_t>(c * shape.frames) * plane + i]));
                    }
                }
                const models::Clip picture =
                    pipeline::decode_latents(device, bundle.vae_config, *bundle.vae, first,
                                             *preview_tile, pipeline::StageOptions{});
                callbacks.preview({picture.width, picture.height, pipeline::to_rgb8(picture)},
                                  step + 1);
            }
        }
        attention_layers = denoiser.attention_layers();
    }
    finish_stage("denoise");

    reporter.begin_stage("decode");
    const models::Clip latents{shape.channels, shape.frames, shape.height, shape.width, latent};
    const models::Clip decoded =
        pipeline::decode_latents(device, bundle.vae_config, *bundle.vae, latents, stages.tile,
                                 stage_options("decode"), reporter.between());
    if (decoded.values.empty()) return std::nullopt;
    require_finite(decoded.values, "the decoded video");
    finish_stage("decode");

    Video video;
    video.width = decoded.width;
    video.height = decoded.height;
    video.frames = decoded.frames;
    video.fps = bundle.fps;
    video.rgb = pipeline::to_rgb8(decoded);
    video.latents = std::move(latent);
    video.latent_shape = {shape.channels, shape.frames, shape.height, shape.width};
    require_picture(video);
    return video;
}

TextToVideo::TextToVideo(const std::filesystem::path& model, Device& device,
                         const PipelineOptions& options)
    : impl_(std::make_unique<Impl>(model, device, options)) {}
TextToVideo::~TextToVideo() = default;
TextToVideo::TextToVideo(TextToVideo&&) noexcept = default;
const ModelSummary& TextToVideo::summary() const {
    return impl_->summary;
}
GenerationParameters TextToVideo::resolve(const GenerationParameters& parameters) const {
    return impl_->resolve(parameters);
}
StepCounts TextToVideo::step_counts(const GenerationParameters& parameters) const {
    using attention::StepKind;
    const attention::StepSchedule steps = impl_->schedule(impl_->resolve(parameters));
    return {steps.count(StepKind::dense), steps.count(StepKind::refresh),
            steps.count(StepKind::sparse), steps.count(StepKind::reused)};
}
MemoryPlan TextToVideo::plan(const GenerationParameters& parameters) const {
    const GenerationParameters p = impl_->resolve(parameters);
    return impl_->plan(p, impl_->schedule(p)).memory;
}
std::optional<Video> TextToVideo::generate(const GenerationParameters& parameters,
                                           const GenerationCallbacks& callbacks) {
    return impl_->generate(parameters, callbacks);
}
std::vector<OperationTime> TextToVideo::profile() const {
    return impl_->profile;
}
std::vector<StageTime> TextToVideo::stage_times() const {
    return impl_->stage_times;
}
std::vector<AttentionLayer> TextToVideo::attention_layers() const {
    return impl_->attention_layers;
}

}  // namespace quantsparse
