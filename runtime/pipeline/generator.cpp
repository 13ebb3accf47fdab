#include <fmt/format.h>
#include <algorithm>
#include <numeric>

#include "attention/block_rule.hpp"
#include "format/model_file.hpp"
#include "format/requantize.hpp"
#include "format/tokenizer.hpp"
#include "pipeline/adapters.hpp"
#include "pipeline/checks.hpp"
#include "pipeline/denoise.hpp"
#include "pipeline/encode.hpp"
#include "pipeline/model_summary.hpp"
#include "pipeline/parameters.hpp"
#include "pipeline/planning.hpp"
#include "pipeline/progress.hpp"
#include "pipeline/steps.hpp"
#include "pipeline/training_hints.hpp"
#include "quantsparse/error.hpp"
#include "sampling/noise.hpp"

namespace quantsparse {

using pipeline::Between;
using pipeline::ExpertSteps;
using pipeline::LatentShape;
using AdaptedModel = std::shared_ptr<const format::ModelBundle>;

namespace {

format::ModelBundle open(const ModelFiles& files, const PipelineOptions& options,
                         const std::shared_ptr<format::RequantizationError>& error) {
    format::ModelBundle bundle = format::open_model(files);
    if (options.requantize) {
        std::vector<std::string> roles;
        for (const pipeline::Expert& expert : pipeline::recipe_of(bundle.architecture).experts) {
            roles.push_back(expert.role);
        }
        format::requantize(bundle, roles, *options.requantize, error);
    }
    return bundle;
}

}  // namespace

struct Generator::Impl {
    Impl(const ModelFiles& files, Device& device_in, const PipelineOptions& options_in)
        : device(device_in.internal()),
          options(options_in),
          bundle(open(files, options, requantization_error)),
          recipe(pipeline::recipe_of(bundle.architecture)),
          geometry(format::clip_geometry(bundle.network(recipe.experts.front().role),
                                         bundle.network(recipe.vae))),
          tokenizers(recipe.texts.size()),
          summary(pipeline::summary_of(bundle, recipe)) {}

    GenerationParameters resolve(const GenerationParameters& parameters) const {
        GenerationParameters p = parameters;
        for (const pipeline::Expert& expert : recipe.experts) {
            p.attention = pipeline::attention_for(p.attention, bundle.network(expert.role));
        }
        p = pipeline::resolve(std::move(p), bundle.defaults, geometry);
        if (p.attention.kind == AttentionKind::sparse && p.attention.mask_file.empty()) {
            p.attention.block_size = attention::block_size_of(
                p.attention, pipeline::device_limits(device),
                geometry.tokens(geometry.latent(*p.width, *p.height, *p.frames)));
        }
        return p;
    }
    /// As the clip's adapters change it.
    AdaptedModel adapted(const GenerationParameters& p,
                         const std::function<void(const std::string&)>& warn = {}) const {
        return pipeline::adapted_model(bundle, recipe, p.conditioning.adapters, warn);
    }
    std::vector<ExpertSteps> steps(const GenerationParameters& p, const AdaptedModel& model) const {
        return pipeline::steps_of(p, recipe, *model);
    }
    /// Read when it is first needed: a vocabulary of 256,000 takes longer than all the rest.
    const format::Tokenizer& tokenizer(std::size_t text) {
        auto& tokenizer = tokenizers[text];
        if (!tokenizer) tokenizer.emplace(bundle.tokenizer(recipe.texts[text].tokenizer));
        return *tokenizer;
    }
    LatentShape latent_shape(const GenerationParameters& p) const {
        const auto [channels, frames, height, width] =
            geometry.latent(*p.width, *p.height, *p.frames);
        return {channels, frames, height, width};
    }
    int branches(const GenerationParameters& p) const {
        // Up to a scale of 1 without guidance, as in diffusers.
        const bool one = recipe.guidance == pipeline::Guidance::embedded || *p.guidance_scale <= 1;
        return one ? 1 : 2;
    }
    /// Of the transformer whose steps these are.
    models::DenoisingOptions denoising_options(const GenerationParameters& p,
                                               const ExpertSteps& steps,
                                               const AdaptedModel& model) const {
        return pipeline::denoising_options(model->at(recipe.experts[steps.expert].role),
                                           bundle.quantization, latent_shape(p), branches(p),
                                           options.storage == Storage::half, &steps.schedule);
    }
    pipeline::StagesPlan plan(const GenerationParameters& p, const std::vector<ExpertSteps>& steps,
                              const AdaptedModel& model) const;
    pipeline::StageOptions stage_options(const char* stage);

    vulkan::Device& device;
    PipelineOptions options;
    std::shared_ptr<format::RequantizationError> requantization_error =
        std::make_shared<format::RequantizationError>();
    format::ModelBundle bundle;
    const pipeline::Recipe& recipe;
    format::ClipGeometry geometry;
    std::vector<std::optional<format::Tokenizer>> tokenizers;  ///< of the recipe's texts
    ModelSummary summary;
    std::vector<OperationTime> profile;
    std::vector<StageTime> stage_times;
    std::vector<AttentionLayer> attention_layers;
};

pipeline::StagesPlan Generator::Impl::plan(const GenerationParameters& p,
                                           const std::vector<ExpertSteps>& steps,
                                           const AdaptedModel& model) const {
    // An expert without steps of its own is planned as the first one runs.
    std::vector<models::DenoisingOptions> of_experts(recipe.experts.size(),
                                                     denoising_options(p, steps.front(), model));
    for (const ExpertSteps& part : steps) {
        of_experts[part.expert] = denoising_options(p, part, model);
    }
    return pipeline::plan_stages(pipeline::device_limits(device), *model, of_experts,
                                 device.memory_budget());
}

pipeline::StageOptions Generator::Impl::stage_options(const char* stage) {
    pipeline::StageOptions result;
    result.half = options.storage == Storage::half;
    if (options.profile) {
        result.profile = [this, stage](const std::vector<program::OperationProfile>& operations) {
            for (const auto& operation : operations) {
                profile.push_back({stage, operation.name, operation.calls, operation.milliseconds});
            }
        };
    }
    return result;
}

namespace {

/// One clip being made.
class Generation {
  public:
    Generation(Generator::Impl& model, const GenerationParameters& parameters,
               const GenerationCallbacks& callbacks)
        : model_(model),
          p_(model.resolve(parameters)),
          asked_guidance_scale_(parameters.guidance_scale),
          callbacks_(callbacks),
          adapted_(model.adapted(p_, callbacks.warning)),
          steps_(model.steps(p_, adapted_)),
          stages_(model.plan(p_, steps_, adapted_)),
          shape_(model.latent_shape(p_)),
          branches_(model.branches(p_)),
          reporter_(callbacks),
          noise_(p_.rng, p_.seed) {}

    /// Nothing when cancelled.
    std::optional<Video> run();

  private:
    void warn() const;
    bool encode_texts();
    bool encode_text(std::size_t text, int branch);
    bool denoise();
    bool denoise(const ExpertSteps& steps);
    bool load_prompts(pipeline::Denoiser& denoiser, double guidance_scale);
    bool step(pipeline::Denoiser& denoiser, int step, double guidance_scale);
    bool predict(pipeline::Denoiser& denoiser, int branch, int step, std::vector<float>& out);
    bool preview(int steps_done);
    std::optional<Video> decode();
    Video with_latents(Video video);

    std::optional<pipeline::VaeTile> tile_for_previews() const;
    void begin_stage(const char* stage) {
        reporter_.begin_stage(stage);
        stage_start_ = pipeline::Clock::now();
    }
    void finish_stage(const char* stage) {
        model_.stage_times.push_back({stage, pipeline::seconds_since(stage_start_)});
    }

    Generator::Impl& model_;
    const GenerationParameters p_;  ///< resolved
    const std::optional<double> asked_guidance_scale_;
    const GenerationCallbacks& callbacks_;
    const AdaptedModel adapted_;
    const std::vector<ExpertSteps> steps_;
    const pipeline::StagesPlan stages_;
    const LatentShape shape_;
    const int branches_;
    pipeline::ProgressReporter reporter_;
    pipeline::Clock::time_point stage_start_;

    std::vector<std::vector<std::vector<float>>> texts_;  ///< rows of each text and branch
    std::vector<float> latent_;
    sampling::NoiseSource noise_;
    std::unique_ptr<sampling::Scheduler> sampler_;
    std::optional<pipeline::VaeTile> preview_tile_;
};

std::optional<Video> Generation::run() {
    stages_.memory.require_fit();
    if (callbacks_.plan) callbacks_.plan(stages_.memory);
    model_.profile.clear();
    model_.stage_times.clear();
    model_.attention_layers.clear();
    warn();
    if (!encode_texts()) return std::nullopt;
    latent_.resize(shape_.count());
    noise_.fill(latent_);
    sampler_ =
        pipeline::make_scheduler(p_, [this](int, std::span<float> out) { noise_.fill(out); });
    sampler_->start(latent_);
    preview_tile_ = tile_for_previews();
    if (!denoise()) return std::nullopt;
    return callbacks_.decode ? decode() : with_latents({});
}

/// What differs from what adapters were trained for, and what has no effect without guidance.
void Generation::warn() const {
    if (!callbacks_.warning) return;
    for (const std::string& line : pipeline::training_hints(p_)) callbacks_.warning(line);
    if (model_.recipe.guidance == pipeline::Guidance::embedded || branches_ == 2) return;
    if (*p_.guidance_scale < 1) {
        callbacks_.warning(
            fmt::format("guidance_scale {:g} is below 1: there is no guidance, each step is one "
                        "forward with the prompt, as with 1",
                        *p_.guidance_scale));
    }
    if (!p_.conditioning.negative_prompt.empty()) {
        callbacks_.warning(
            fmt::format("the negative prompt has no effect: guidance_scale {:g} "
                        "switches guidance off",
                        *p_.guidance_scale));
    }
}

bool Generation::encode_texts() {
    begin_stage("text");
    for (std::size_t text = 0; text < model_.recipe.texts.size(); ++text) {
        texts_.emplace_back();
        for (int branch = 0; branch < branches_; ++branch) {
            if (!encode_text(text, branch)) return false;
        }
    }
    finish_stage("text");
    return true;
}

bool Generation::encode_text(std::size_t text, int branch) {
    const pipeline::TextInput& input = model_.recipe.texts[text];
    const int most = model_.bundle.network(model_.recipe.experts.front().role).geometry.text_tokens;
    const std::string& prompt =
        branch == 0 ? p_.conditioning.prompt : p_.conditioning.negative_prompt;
    const format::TokenIds tokens = model_.tokenizer(text).encode(prompt, most);
    if (tokens.truncated && callbacks_.warning) {
        callbacks_.warning(fmt::format("the {} is longer than {} tokens: the rest was cut off",
                                       branch == 0 ? "prompt" : "negative prompt", most));
    }
    auto states = pipeline::encode_tokens(model_.device, model_.bundle.at(input.encoder),
                                          tokens.ids, tokens.valid_count,
                                          model_.stage_options("text"), reporter_.between());
    if (states.rows.empty()) return false;
    pipeline::require_finite(states.rows, "the text encoder's output");
    texts_.back().push_back(std::move(states.rows));
    return true;
}

bool Generation::denoise() {
    for (const ExpertSteps& steps : steps_) {
        if (!denoise(steps)) return false;
    }
    return true;
}

bool Generation::denoise(const ExpertSteps& steps) {
    const pipeline::Expert& expert = model_.recipe.experts[steps.expert];
    begin_stage("load");
    pipeline::Denoiser denoiser(model_.device, adapted_->at(expert.role),
                                model_.denoising_options(p_, steps, adapted_),
                                model_.stage_options("denoise"), &steps.schedule,
                                stages_.residency.at(steps.expert), reporter_.between());
    // What was asked for, else the transformer's own, else the model's.
    const double guidance_scale =
        asked_guidance_scale_.value_or(expert.guidance_scale.value_or(*p_.guidance_scale));
    if (!denoiser.loaded() || !load_prompts(denoiser, guidance_scale)) return false;
    finish_stage("load");
    if (model_.options.requantize && callbacks_.warning) {
        callbacks_.warning(fmt::format(
            "the transformer's weights were rounded to {} bits: they differ by {:.2f} % "
            "(relative L2)",
            *model_.options.requantize, 100 * model_.requantization_error->relative()));
    }
    begin_stage("denoise");
    for (int i = 0; i < steps.schedule.steps(); ++i) {
        denoiser.begin_step(i);
        if (!step(denoiser, steps.first + i, guidance_scale)) return false;
    }
    finish_stage("denoise");
    const auto layers = denoiser.attention_layers();
    model_.attention_layers.insert(model_.attention_layers.end(), layers.begin(), layers.end());
    return true;
}

bool Generation::load_prompts(pipeline::Denoiser& denoiser, double guidance_scale) {
    if (model_.recipe.guidance == pipeline::Guidance::embedded) {
        const float scale = static_cast<float>(guidance_scale);
        denoiser.write("guidance", std::span(&scale, 1));
    }
    for (int branch = 0; branch < branches_; ++branch) {
        for (std::size_t text = 0; text < texts_.size(); ++text) {
            denoiser.write(model_.recipe.texts[text].input,
                           texts_[text][static_cast<std::size_t>(branch)]);
        }
        if (!denoiser.set_prompt(branch, reporter_.between())) return false;
    }
    return true;
}

bool Generation::step(pipeline::Denoiser& denoiser, int step, double guidance_scale) {
    if (callbacks_.before_step && !callbacks_.before_step(step, latent_)) return true;
    std::vector<std::vector<float>> predictions(static_cast<std::size_t>(branches_));
    for (int b = 0; b < branches_; ++b) {
        if (!predict(denoiser, b, step, predictions[static_cast<std::size_t>(b)])) return false;
    }
    if (branches_ == 2) {
        sampling::apply_guidance(predictions[0], predictions[1],
                                 static_cast<float>(guidance_scale));
    }
    if (callbacks_.predicted) callbacks_.predicted(step, predictions[0]);
    sampler_->step(latent_, predictions[0]);
    if (!reporter_.report(step + 1, *p_.steps, (step + 1.0) / *p_.steps)) return false;
    return preview(step + 1);
}

bool Generation::predict(pipeline::Denoiser& denoiser, int branch, int step,
                         std::vector<float>& out) {
    const auto progress = [&](int done, int total) {
        const double part = (branch + static_cast<double>(done) / total) / branches_;
        return reporter_.report(step, *p_.steps, (step + part) / *p_.steps);
    };
    out = denoiser.predict(branch, latent_, sampler_->timesteps()[static_cast<std::size_t>(step)],
                           progress);
    if (out.empty()) return false;
    pipeline::require_finite(out, [&] {
        const std::string site = denoiser.non_finite_site();
        return fmt::format("the transformer's output at step {}{}{}", step + 1,
                           site.empty() ? "" : ", from ", site);
    });
    return true;
}

/// The tile for previews, which are decoded in what the transformer leaves of the budget.
std::optional<pipeline::VaeTile> Generation::tile_for_previews() const {
    if (!callbacks_.preview) return std::nullopt;
    const MemoryPlan& plan = stages_.memory;
    const pipeline::VaeTile whole{shape_.height, shape_.width};
    if (plan.budget_bytes == 0) return whole;
    std::uint64_t left = plan.budget_bytes;
    for (const StagePlan& stage : plan.stages) {
        if (stage.kind == StageKind::transformer) {
            left = std::min(left, plan.budget_bytes - stage.total_bytes());
        }
    }
    const format::Network& vae = model_.bundle.network(model_.recipe.vae);
    const auto limits = pipeline::device_limits(model_.device);
    if (left >= pipeline::least_vae_bytes(limits, vae, shape_.height, shape_.width)) {
        return pipeline::choose_vae_tile(limits, vae, shape_.height, shape_.width, left);
    }
    if (callbacks_.warning) {
        callbacks_.warning("there are no previews: the transformer leaves them no memory");
    }
    return std::nullopt;
}

/// The clip's first frame as it is heading, decoded as a picture of its own. False when cancelled.
bool Generation::preview(int steps_done) {
    const int interval = callbacks_.preview_interval;
    if (!preview_tile_ || interval <= 0 || steps_done % interval || steps_done == *p_.steps) {
        return true;
    }
    models::Clip first{shape_.channels, 1, shape_.height, shape_.width, {}};
    const auto& prediction = sampler_->data_prediction();
    const std::size_t plane = static_cast<std::size_t>(shape_.height * shape_.width);
    for (int c = 0; c < shape_.channels; ++c) {
        for (std::size_t i = 0; i < plane; ++i) {
            first.values.push_back(static_cast<float>(
                prediction[static_cast<std::size_t>(c * shape_.frames) * plane + i]));
        }
    }
    const models::Clip picture = pipeline::decode_latents(
        model_.device, model_.bundle.at(model_.recipe.vae), first, *preview_tile_, {},
        [&](int, int) {
            return reporter_.report(steps_done, *p_.steps,
                                    static_cast<double>(steps_done) / *p_.steps);
        });
    if (picture.values.empty()) return false;
    callbacks_.preview({picture.width, picture.height, pipeline::to_rgb8(picture)}, steps_done);
    return true;
}

std::optional<Video> Generation::decode() {
    begin_stage("decode");
    Video video;
    video.fps = model_.bundle.defaults.fps;
    bool seen = false;
    const auto take = [&](const models::Clip& part) {
        pipeline::require_finite(part.values, "the decoded video");
        const std::vector<std::uint8_t> rgb = pipeline::to_rgb8(part);
        const std::size_t frame_bytes = rgb.size() / static_cast<std::size_t>(part.frames);
        for (int f = 0; f < part.frames; ++f) {
            const auto frame =
                std::span(rgb).subspan(static_cast<std::size_t>(f) * frame_bytes, frame_bytes);
            seen = seen || pipeline::shows_anything(frame);
            if (callbacks_.frame) callbacks_.frame(video.frames + f, frame);
        }
        video.width = part.width;
        video.height = part.height;
        video.frames += part.frames;
        if (callbacks_.keep_frames) video.rgb.insert(video.rgb.end(), rgb.begin(), rgb.end());
    };
    const models::Clip latents{shape_.channels, shape_.frames, shape_.height, shape_.width,
                               latent_};
    if (!pipeline::decode_latents(model_.device, model_.bundle.at(model_.recipe.vae), latents,
                                  stages_.tile, model_.stage_options("decode"), take,
                                  reporter_.between())) {
        return std::nullopt;
    }
    finish_stage("decode");
    if (!seen) pipeline::refuse_flat_clip();
    return with_latents(std::move(video));
}

Video Generation::with_latents(Video video) {
    video.latents = std::move(latent_);
    video.latent_shape = {shape_.channels, shape_.frames, shape_.height, shape_.width};
    return video;
}

}  // namespace

Generator::Generator(const ModelFiles& files, Device& device, const PipelineOptions& options)
    : impl_(std::make_unique<Impl>(files, device, options)) {}
Generator::~Generator() = default;
Generator::Generator(Generator&&) noexcept = default;
const ModelSummary& Generator::summary() const {
    return impl_->summary;
}
GenerationParameters Generator::resolve(const GenerationParameters& parameters) const {
    return impl_->resolve(parameters);
}
StepCounts Generator::step_counts(const GenerationParameters& parameters) const {
    using attention::StepKind;
    StepCounts counts;
    const GenerationParameters p = impl_->resolve(parameters);
    for (const ExpertSteps& steps : impl_->steps(p, impl_->adapted(p))) {
        counts.dense += steps.schedule.count(StepKind::dense);
        counts.refresh += steps.schedule.count(StepKind::refresh);
        counts.sparse += steps.schedule.count(StepKind::sparse);
        counts.reused += steps.schedule.count(StepKind::reused);
    }
    return counts;
}
MemoryPlan Generator::plan(const GenerationParameters& parameters) const {
    const GenerationParameters p = impl_->resolve(parameters);
    const AdaptedModel model = impl_->adapted(p);
    return impl_->plan(p, impl_->steps(p, model), model).memory;
}
std::optional<Video> Generator::generate(const GenerationParameters& parameters,
                                         const GenerationCallbacks& callbacks) {
    return Generation(*impl_, parameters, callbacks).run();
}
std::vector<OperationTime> Generator::profile() const {
    return impl_->profile;
}
std::vector<StageTime> Generator::stage_times() const {
    return impl_->stage_times;
}
std::vector<AttentionLayer> Generator::attention_layers() const {
    return impl_->attention_layers;
}

}  // namespace quantsparse
