#include "calib/collect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <optional>

#include "calib/candidates.hpp"
#include "calib/drift.hpp"
#include "calib/forward.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/progress.hpp"
#include "calib/prompt_tokens.hpp"
#include "calib/registry.hpp"
#include "calib/tensors.hpp"
#include "format/clip_geometry.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/error.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::calib {
namespace {

// The paper calibrates 1.3B at about half of its tokens; statistics change little below that.
constexpr std::int64_t kDefaultTokens = 1000;
constexpr int kDefaultFrames = 17;
// All kept rows together; above it fewer rows are kept per group.
constexpr std::uint64_t kRowBudgetBytes = std::uint64_t{3} << 29;
constexpr int kFewestRows = 64;
// Rows kept of consecutive forwards start this far apart, so that the sample covers the whole clip.
constexpr std::size_t kRowStride = 7919;
constexpr int kHeldOut = 4;  // samples a block is judged by
// Rows that rounding with error feedback wants to know the inputs by, in 20 samples or more: with a
// third of them (bundled model, 6480 of width 192 and 768) the velocity loses 0.2 dB.
constexpr std::int64_t kRoundingRows = 20000;
constexpr int kFewestRoundingSamples = 20;
constexpr int kMostRoundingSamples = 80;

// Short, concrete and plain, so that a small vocabulary knows the words too.
constexpr const char* kPrompts[] = {
    "a red circle moves left on a black background",
    "a large blue square moves up on a white background",
    "a small green triangle moves right on a gray background",
    "a yellow star moves down on a navy background",
    "a cat walks over a wooden floor in the sun",
    "waves roll onto a beach at dusk, seen from above",
    "a man in a red coat crosses a busy street in the rain",
    "close-up of a flower that opens in time lapse",
};

format::ClipGeometry geometry_of(const format::ModelBundle& model) {
    return format::clip_geometry(transformer_of(model).network,
                                 model.network(pipeline::recipe_of(model.architecture).vae));
}

/// Forwards of a prompt in each step.
int branches_of(const format::ModelBundle& model) {
    const auto guidance = pipeline::recipe_of(model.architecture).guidance;
    return guidance == pipeline::Guidance::two_forwards ? 2 : 1;
}

int kept_rows(const format::Network& network, int wanted) {
    std::uint64_t width = 0;
    for (const auto& block : network.blocks) {
        for (const auto& group : block.groups) {
            width += static_cast<std::uint64_t>(group.width);
        }
    }
    const std::uint64_t fitting = kRowBudgetBytes / (4 * width);
    return static_cast<int>(std::clamp<std::uint64_t>(
        fitting, kFewestRows, static_cast<std::uint64_t>(std::max(wanted, kFewestRows))));
}

/// A copy that autograd may use: tensors made under InferenceMode may not.
BlockState kept_state(const BlockState& state) {
    const c10::InferenceMode off(false);
    auto kept = state;
    kept.x = kept.x.clone();
    for (auto& [name, tensor] : kept.given) {
        tensor = tensor.clone();
    }
    kept.head.clear();
    return kept;
}

}  // namespace

const format::Component& transformer_of(const format::ModelBundle& model) {
    return model.at(pipeline::recipe_of(model.architecture).experts.front().role);
}

ClipSize choose_clip_size(const format::ModelBundle& model, const CalibrationOptions& options) {
    const auto geometry = geometry_of(model);
    const auto& native = model.defaults;
    const int scale = geometry.time;
    const int unit_x = geometry.width_multiple(), unit_y = geometry.height_multiple();
    const auto round_to = [](double value, int multiple) {
        return std::max(1, static_cast<int>(std::lround(value / multiple))) * multiple;
    };
    const auto round_frames = [&](int frames) { return (frames - 1) / scale * scale + 1; };
    ClipSize size;
    size.frames = options.frames > 0
                      ? options.frames
                      : round_frames(std::min(native.native_frames,
                                              std::max(1, round_frames(kDefaultFrames))));
    const int latent_frames = geometry.latent_frames(size.frames);
    const double native_tokens = static_cast<double>(native.native_width) / unit_x *
                                 native.native_height / unit_y * latent_frames / geometry.patch[0];
    const double shrink = std::min(1.0, std::sqrt(kDefaultTokens / native_tokens));
    size.width = options.width > 0 ? options.width : round_to(native.native_width * shrink, unit_x);
    size.height =
        options.height > 0 ? options.height : round_to(native.native_height * shrink, unit_y);
    const int near_width = round_to(size.width, unit_x);
    const int near_height = round_to(size.height, unit_y);
    if (size.width != near_width || size.height != near_height ||
        !geometry.fits_frames(size.frames)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("calibration clips of {}x{} with {} frames do not fit this model; "
                        "width and height must be multiples of {} and {}, frames {}n+1 (the "
                        "nearest: {}x{}, {})",
                        size.width, size.height, size.frames, unit_x, unit_y, scale, near_width,
                        near_height, round_frames(size.frames)));
    }
    size.latent = geometry.latent(size.width, size.height, size.frames);
    size.tokens = geometry.tokens(size.latent);
    return size;
}

std::vector<std::string> choose_prompts(const CalibrationOptions& options) {
    std::vector<std::string> source = options.prompts;
    if (source.empty()) {
        source.assign(std::begin(kPrompts), std::end(kPrompts));
    }
    std::vector<std::string> prompts;
    for (int i = 0; i < clip_count(options); ++i) {
        prompts.push_back(source[static_cast<std::size_t>(i) % source.size()]);
    }
    return prompts;
}

double clip_guidance(const format::ModelBundle& model, const CalibrationOptions& options) {
    return options.guidance > 0 ? options.guidance : model.defaults.guidance_scale;
}

double combining_guidance(const format::ModelBundle& model, const CalibrationOptions& options) {
    return branches_of(model) == 2 ? clip_guidance(model, options) : 1.0;
}

int training_count(const CalibrationOptions& options) {
    constexpr int kDefaultSamples = 20;
    if (!method_of(options).learns) {
        return 0;
    }
    return options.samples > 0 ? options.samples : kDefaultSamples;
}

int clip_count(const CalibrationOptions& options) {
    constexpr int kDefaultClips = 4;
    if (const int training = training_count(options); training > 0) {
        return std::max(1, (training + 3) / 4);
    }
    return options.samples > 0 ? options.samples : kDefaultClips;
}

namespace {

/// Inputs kept for learning, or for rounding where nothing is learned.
int kept_samples(const CalibrationOptions& options, std::int64_t tokens) {
    const auto method = method_of(options);
    if (method.learns || method.rounding == Rounding::nearest) {
        return training_count(options);
    }
    return static_cast<int>(std::clamp<std::int64_t>((kRoundingRows + tokens - 1) / tokens,
                                                     kFewestRoundingSamples, kMostRoundingSamples));
}

/// Text states of each prompt, and last of the empty one, by the transformer's input.
std::vector<std::map<std::string, at::Tensor>> encode_prompts(
    const format::ModelBundle& model, const std::vector<std::string>& prompts, bool show_progress) {
    auto texts = prompts;
    texts.emplace_back();  // the unconditional branch
    const auto& recipe = pipeline::recipe_of(model.architecture);
    const int most = transformer_of(model).network.geometry.text_tokens;
    std::vector<std::map<std::string, at::Tensor>> states(texts.size());
    Progress progress("encoding prompts", static_cast<int>(recipe.texts.size() * texts.size()),
                      show_progress);
    for (const auto& input : recipe.texts) {
        const auto tokens = tokenize_prompts(model.tokenizer(input.tokenizer), texts, most);
        for (std::size_t i = 0; i < texts.size(); ++i) {
            states[i][input.input] =
                encode_text(model.at(input.encoder), tokens[i], check_cancelled);
            progress.advance();
        }
    }
    return states;
}

/// The clips that are generated, and what is kept of them on the way.
class Collector {
  public:
    Collector(const format::ModelBundle& model, const CalibrationOptions& options,
              bool show_progress);
    Collected run(bool show_progress);

  private:
    std::vector<TransformerInput> inputs_of(int step) const;
    void observe(std::size_t input, int step, std::string_view group, const at::Tensor& rows);
    void keep_samples(int step, const std::vector<BlockState>& states);
    void advance(std::vector<at::Tensor> predictions);
    void select_samples(const Transformer& transformer);

    const format::ModelBundle& model_;
    const CalibrationOptions& options_;
    const format::Component& transformer_;
    std::size_t branches_;
    std::vector<std::string> prompts_;
    std::vector<std::map<std::string, at::Tensor>> texts_;
    std::vector<at::Tensor> latents_;
    std::vector<std::unique_ptr<sampling::Scheduler>> schedulers_;
    std::size_t inputs_per_step_;
    int rows_per_forward_ = 0;
    int text_rows_ = 0;
    std::vector<SampleChoice> choices_;
    SampleSet samples_;
    std::optional<Candidates> candidates_;  ///< of presets that choose among all inputs
    CollectedActivations collected_;
    /// Filled by the workers, taken in the inputs' order, so that a run can be repeated exactly.
    std::vector<std::map<std::string, Observation, std::less<>>> seen_;
};

Collector::Collector(const format::ModelBundle& model, const CalibrationOptions& options,
                     bool show_progress)
    : model_(model),
      options_(options),
      transformer_(transformer_of(model)),
      branches_(static_cast<std::size_t>(branches_of(model))),
      prompts_(choose_prompts(options)),
      texts_(encode_prompts(model, prompts_, show_progress)),
      inputs_per_step_(branches_ * prompts_.size()),
      collected_(transformer_.network, method_of(options).scale == ChannelScale::salient) {
    const int inputs = static_cast<int>(inputs_per_step_);
    const int rows = kept_rows(transformer_.network, options.kept_rows);
    rows_per_forward_ = (rows + inputs * options.steps - 1) / (inputs * options.steps);
    // Text rows do not depend on the step: seen once per clip and branch.
    text_rows_ = std::max(1, rows / inputs);
    const auto size = choose_clip_size(model, options);
    const std::vector<std::int64_t> shape(size.latent.begin(), size.latent.end());
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
        latents_.push_back(at::empty(shape, at::kFloat));
        sampling::fill_gaussian(options.seed + i, {latents_[i].data_ptr<float>(),
                                                   static_cast<std::size_t>(latents_[i].numel())});
        schedulers_.push_back(
            sampling::make_scheduler(Sampler::unipc, options.steps, model.defaults.flow_shift));
    }
    const int kept = kept_samples(options, size.tokens);
    choices_ = choose_samples(kept, kHeldOut, options.steps, static_cast<int>(prompts_.size()));
    samples_.states.resize(choices_.size());
    samples_.training = static_cast<std::size_t>(kept);
    if (kept > 0 && method_of(options).selection != SampleSelection::spread) {
        candidates_.emplace(transformer_, options, inputs_per_step_, branches_);
    }
}

std::vector<TransformerInput> Collector::inputs_of(int step) const {
    std::vector<TransformerInput> inputs;
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
        TransformerInput input;
        input.latent = latents_[i];
        input.timestep = schedulers_[i]->timesteps()[static_cast<std::size_t>(step)];
        input.guidance = clip_guidance(model_, options_);
        for (std::size_t branch = 0; branch < branches_; ++branch) {
            input.texts = branch == 0 ? texts_[i] : texts_.back();
            inputs.push_back(input);
        }
    }
    return inputs;
}

void Collector::observe(std::size_t input, int step, std::string_view group,
                        const at::Tensor& rows) {
    const bool text = group_of(transformer_.network.blocks.front(), group).once_per_prompt;
    if (text && step > 0) {
        return;
    }
    const auto forward = static_cast<std::size_t>(step) * inputs_per_step_ + input;
    seen_[input][std::string(group)] =
        observe_rows(values_of(rows), static_cast<int>(rows.size(1)),
                     text ? text_rows_ : rows_per_forward_, forward * kRowStride);
}

void Collector::keep_samples(int step, const std::vector<BlockState>& states) {
    for (std::size_t i = candidates_ ? samples_.training : 0; i < choices_.size(); ++i) {
        if (choices_[i].step == step) {
            const auto branch =
                std::min(static_cast<std::size_t>(choices_[i].branch), branches_ - 1);
            samples_.states[i] =
                kept_state(states[branches_ * static_cast<std::size_t>(choices_[i].clip) + branch]);
        }
    }
}

void Collector::select_samples(const Transformer& transformer) {
    const auto first_held_out = static_cast<std::ptrdiff_t>(samples_.training);
    const std::vector<SampleChoice> held_out(choices_.begin() + first_held_out, choices_.end());
    std::vector<BlockState> states;
    for (const auto& choice : candidates_->choose(samples_.training, held_out, latents_)) {
        states.push_back(kept_state(transformer.prepare(candidates_->input_of(choice))));
    }
    const auto chosen = states.size();
    std::move(samples_.states.begin() + first_held_out, samples_.states.end(),
              std::back_inserter(states));
    samples_.states = std::move(states);
    samples_.training = chosen;
}

void Collector::advance(std::vector<at::Tensor> predictions) {
    for (std::size_t i = 0; i < prompts_.size(); ++i) {
        auto guided = predictions[branches_ * i].contiguous();
        const auto count = static_cast<std::size_t>(guided.numel());
        if (branches_ == 2) {
            const auto plain = predictions[2 * i + 1].contiguous();
            sampling::apply_guidance({guided.data_ptr<float>(), count}, values_of(plain),
                                     static_cast<float>(clip_guidance(model_, options_)));
        }
        // A new tensor: the step's inputs still refer to the old one.
        latents_[i] = latents_[i].clone();
        schedulers_[i]->step({latents_[i].data_ptr<float>(), count}, values_of(guided));
    }
}

Collected Collector::run(bool show_progress) {
    const int cores = core_count(options_.threads);
    const int workers = std::min(cores, static_cast<int>(inputs_per_step_));
    set_thread_count(std::max(1, cores / workers));
    Forward forward(transformer_, workers);
    DriftRecorder drift(transformer_.network.blocks.size());
    forward.observe_attention([&](std::size_t input, int block, const BlockState& state,
                                  const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        if (candidates_) {
            candidates_->observe(input, block, state);
        }
        if (input == 0) {  // the first clip with its prompt
            drift.observe(static_cast<std::size_t>(block), q, k, v, state.grid);
        }
    });
    const int blocks = static_cast<int>(transformer_.network.blocks.size());
    Progress progress("collecting activations", options_.steps * blocks, show_progress);
    for (int step = 0; step < options_.steps; ++step) {
        seen_.assign(inputs_per_step_, {});
        const double sigma = schedulers_[0]->sigmas()[static_cast<std::size_t>(step)];
        const auto after_block = [&](int block) {
            for (const auto& groups : seen_) {
                for (const auto& [group, observation] : groups) {
                    collected_.add(block, group, observation);
                }
            }
            check_cancelled();
            progress.advance();
        };
        auto inputs = inputs_of(step);
        auto predictions = forward.run(
            inputs,
            [&](std::size_t input, int, std::string_view group, const at::Tensor& rows) {
                observe(input, step, group, rows);
            },
            after_block, [&](const auto& states) { keep_samples(step, states); });
        if (candidates_) {
            candidates_->end_step(forward.transformer(), std::move(inputs), predictions);
        }
        advance(std::move(predictions));
        drift.end_step(sigma);
    }
    if (candidates_) {
        select_samples(forward.transformer());
    }
    collected_.finish();
    samples_.drift = drift.curve();
    set_thread_count(cores);
    for (const auto& state : samples_.states) {
        samples_.quantized.push_back(state.x);
    }
    return {std::move(collected_), std::move(samples_)};
}

}  // namespace

Collected collect(const format::ModelBundle& model, const CalibrationOptions& options,
                  bool show_progress) {
    const c10::InferenceMode no_gradients;
    return Collector(model, options, show_progress).run(show_progress);
}

}  // namespace quantsparse::calib
