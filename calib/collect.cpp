#include "calib/collect.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "calib/linear_algebra.hpp"
#include "calib/networks.hpp"
#include "calib/progress.hpp"
#include "calib/prompt_tokens.hpp"
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

/// Pixels that one token spans along rows and columns.
struct Granularity {
    int width = 0;
    int height = 0;
};

Granularity granularity(const format::ModelBundle& model) {
    const int scale = 1 << (model.vae_config.dim_mult.size() - 1);
    return {scale * model.transformer_config.patch_size[2],
            scale * model.transformer_config.patch_size[1]};
}

int temporal_scale(const format::ModelBundle& model) {
    const auto& down = model.vae_config.temporal_downsample;
    return 1 << std::count(down.begin(), down.end(), true);
}

int kept_rows(const format::WanDitConfig& config, int wanted) {
    const std::uint64_t width =
        6 * static_cast<std::uint64_t>(config.dim) + static_cast<std::uint64_t>(config.ffn_dim);
    const std::uint64_t fitting =
        kRowBudgetBytes / (4 * width * static_cast<std::uint64_t>(config.num_layers));
    return static_cast<int>(std::clamp<std::uint64_t>(
        fitting, kFewestRows, static_cast<std::uint64_t>(std::max(wanted, kFewestRows))));
}

/// A copy that autograd may use: tensors made under InferenceMode may not.
BlockState kept_state(const BlockState& state) {
    const c10::InferenceMode off(false);
    auto kept = state;
    for (auto* tensor : {&kept.x, &kept.context, &kept.e, &kept.e0, &kept.cosines, &kept.sines}) {
        *tensor = tensor->clone();
    }
    return kept;
}

/// The text states of each prompt and, last, of the unconditional branch.
std::vector<at::Tensor> encode_prompts(const format::ModelBundle& model,
                                       std::vector<std::string> texts, bool show_progress) {
    texts.emplace_back();
    std::vector<at::Tensor> contexts;
    Progress progress("encoding prompts",
                      static_cast<int>(texts.size()) * model.text_encoder_config.num_layers,
                      show_progress);
    for (const auto& ids :
         tokenize_prompts(model.tokenizer, texts, model.transformer_config.text_len)) {
        contexts.push_back(encode_text(*model.text_encoder, model.text_encoder_config, ids, [&] {
            check_cancelled();
            progress.advance();
        }));
    }
    return contexts;
}

}  // namespace

ClipSize choose_clip_size(const format::ModelBundle& model, const CalibrationOptions& options) {
    const auto unit = granularity(model);
    const int scale = temporal_scale(model);
    const int patch_frames = model.transformer_config.patch_size[0];
    const auto round_to = [](double value, int multiple) {
        return std::max(1, static_cast<int>(std::lround(value / multiple))) * multiple;
    };
    ClipSize size;
    size.frames =
        options.frames > 0
            ? options.frames
            : std::min(model.native_frames, std::max(1, (kDefaultFrames - 1) / scale * scale + 1));
    size.frames = options.frames > 0 ? size.frames : (size.frames - 1) / scale * scale + 1;
    const int latent_frames = (size.frames - 1) / scale + 1;
    const double native_tokens = static_cast<double>(model.native_width) / unit.width *
                                 model.native_height / unit.height * latent_frames / patch_frames;
    const double shrink = std::min(1.0, std::sqrt(kDefaultTokens / native_tokens));
    size.width =
        options.width > 0 ? options.width : round_to(model.native_width * shrink, unit.width);
    size.height =
        options.height > 0 ? options.height : round_to(model.native_height * shrink, unit.height);
    const int near_width = round_to(size.width, unit.width);
    const int near_height = round_to(size.height, unit.height);
    const int near_frames = (size.frames - 1) / scale * scale + 1;
    if (size.width != near_width || size.height != near_height || size.frames != near_frames ||
        latent_frames % patch_frames != 0) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("calibration clips of {}x{} with {} frames do not fit this model; "
                        "width and height must be multiples of {} and {}, frames {}n+1 (the "
                        "nearest: {}x{}, {})",
                        size.width, size.height, size.frames, unit.width, unit.height, scale,
                        near_width, near_height, near_frames));
    }
    const int spatial = 1 << (model.vae_config.dim_mult.size() - 1);
    size.latent = {model.transformer_config.in_dim, latent_frames, size.height / spatial,
                   size.width / spatial};
    size.tokens = std::int64_t{latent_frames / patch_frames} * (size.height / unit.height) *
                  (size.width / unit.width);
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

Collected collect(const format::ModelBundle& model, const CalibrationOptions& options,
                  bool show_progress) {
    const c10::InferenceMode no_gradients;
    const auto& config = model.transformer_config;
    const auto size = choose_clip_size(model, options);
    const auto prompts = choose_prompts(options);

    const auto contexts = encode_prompts(model, prompts, show_progress);
    const auto unconditional = contexts.back();

    const int inputs_per_step = 2 * static_cast<int>(prompts.size());
    const int cores = core_count(options.threads);
    const int workers = std::min(cores, inputs_per_step);
    set_thread_count(std::max(1, cores / workers));
    WanDit network(*model.transformer, config, workers);
    CollectedActivations collected(config);
    const auto choices = choose_samples(training_count(options), kHeldOut, options.steps,
                                        static_cast<int>(prompts.size()));
    SampleSet samples;
    samples.states.resize(choices.size());
    samples.training = static_cast<std::size_t>(training_count(options));
    const int rows = kept_rows(config, options.kept_rows);
    const int rows_per_forward =
        (rows + inputs_per_step * options.steps - 1) / (inputs_per_step * options.steps);
    // Text rows do not depend on the step: seen once per clip and branch.
    const int text_rows = std::max(1, rows / inputs_per_step);

    const std::vector<std::int64_t> shape(size.latent.begin(), size.latent.end());
    std::vector<at::Tensor> latents;
    std::vector<std::unique_ptr<sampling::Scheduler>> schedulers;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        latents.push_back(at::empty(shape, at::kFloat));
        sampling::fill_gaussian(options.seed + i, {latents[i].data_ptr<float>(),
                                                   static_cast<std::size_t>(latents[i].numel())});
        schedulers.push_back(sampling::make_scheduler(sampling::SamplerKind::unipc, options.steps,
                                                      model.flow_shift));
    }
    Progress progress("collecting activations", options.steps * config.num_layers, show_progress);
    for (int step = 0; step < options.steps; ++step) {
        std::vector<DitInput> inputs;
        for (std::size_t i = 0; i < prompts.size(); ++i) {
            const double timestep = schedulers[i]->timesteps()[static_cast<std::size_t>(step)];
            inputs.push_back({latents[i], contexts[i], timestep});
            inputs.push_back({latents[i], unconditional, timestep});
        }
        // Filled by the workers, taken in the inputs' order, so that a run can be repeated exactly.
        std::vector<std::map<InputGroup, Observation>> seen(inputs.size());
        const auto observer = [&](std::size_t input, int, InputGroup group,
                                  const at::Tensor& tensor) {
            const bool text = group == InputGroup::cross_kv;
            if (!text || step == 0) {
                const auto forward = static_cast<std::size_t>(step) * inputs.size() + input;
                seen[input][group] =
                    observe_rows(values_of(tensor), static_cast<int>(tensor.size(1)),
                                 text ? text_rows : rows_per_forward, forward * kRowStride);
            }
        };
        const auto after_block = [&](int block) {
            for (const auto& groups : seen) {
                for (const auto& [group, observation] : groups) {
                    collected.add(block, group, observation);
                }
            }
            check_cancelled();
            progress.advance();
        };
        const auto before_blocks = [&](const std::vector<BlockState>& states) {
            for (std::size_t i = 0; i < choices.size(); ++i) {
                if (choices[i].step == step) {
                    samples.states[i] = kept_state(
                        states[static_cast<std::size_t>(2 * choices[i].clip + choices[i].branch)]);
                }
            }
        };
        const auto velocities = network.forward(inputs, observer, after_block, before_blocks);
        for (std::size_t i = 0; i < prompts.size(); ++i) {
            auto guided = velocities[2 * i].contiguous();
            const auto plain = velocities[2 * i + 1].contiguous();
            const auto count = static_cast<std::size_t>(guided.numel());
            sampling::apply_guidance({guided.data_ptr<float>(), count}, values_of(plain),
                                     static_cast<float>(model.guidance_scale));
            // A new tensor: the step's inputs still refer to the old one.
            latents[i] = latents[i].clone();
            schedulers[i]->step({latents[i].data_ptr<float>(), count}, values_of(guided));
        }
    }
    collected.finish();
    set_thread_count(cores);
    for (const auto& state : samples.states) {
        samples.quantized.push_back(state.x);
    }
    return {std::move(collected), std::move(samples)};
}

}  // namespace quantsparse::calib
