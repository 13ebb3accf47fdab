// Text to video: open a model on a device, plan, generate. The public face of the runtime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quantsparse/adapter.hpp"
#include "quantsparse/attention.hpp"
#include "quantsparse/device.hpp"
#include "quantsparse/model_files.hpp"
#include "quantsparse/sampler.hpp"

namespace quantsparse {

/// How floating-point weights and attention operands are kept on the device.
enum class Storage { fp32, half };

/// RGB8, rows top to bottom.
struct Picture {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;
};

/// What a clip is made from. A model that can't take one of these refuses it by name.
struct Conditioning {
    std::string prompt;                 ///< UTF-8; empty is allowed and means "unconditional"
    std::string negative_prompt;        ///< UTF-8
    std::optional<Picture> image;       ///< that the clip begins with
    std::optional<Picture> last_image;  ///< that it ends with
    std::vector<Adapter> adapters;
};

/// What is not set is the model's own.
struct GenerationParameters {
    Conditioning conditioning;
    std::optional<int> width;   ///< pixels
    std::optional<int> height;  ///< pixels
    std::optional<int> frames;  ///< with Wan 4n + 1
    std::uint64_t seed = 0;
    Rng rng = Rng::philox;           ///< what makes noise of the seed
    std::optional<int> steps;        ///< denoising steps, 1..1000; of a list: as many as it has
    std::optional<Sampler> sampler;  ///< with a list and nothing set: euler
    /// Noise levels of the steps in place of evenly spread ones: falling, at most 1, above 0. Each
    /// is moved by flow_shift, s' = shift s / (1 + (shift - 1) s) (flow_shift 1 leaves them), and
    /// the model receives 1000 s'. The 0 after the last step is not part of the list. For euler and
    /// lcm.
    std::vector<double> sigmas;
    /// The same as a list of timesteps, at most 1000: s = timestep / 1000, before the shift, so
    /// that 1000, 750, 500, 250 with flow_shift 5 gives the model 1000, 937.5, 833.3, 625. dmd
    /// takes whole ones and gives them to the model as they are; there, flow_shift is that of the
    /// table in which their noise levels are looked up.
    std::vector<double> timesteps;
    /// A distilled model's sampler, list, flow_shift and guidance_scale 1 by one name. Another
    /// guidance_scale may be set; any other sampler, list, number of steps or shift is refused.
    std::optional<FewSteps> few_steps;
    /// 0..100. Up to 1 there is no guidance: a step is one forward with the prompt, and the
    /// negative prompt is not used. Models that take the scale as an input get any as it is.
    std::optional<double> guidance_scale;
    std::optional<double> flow_shift;  ///< above 0, up to 1000; rcm takes none
    /// Steps whose transformer is expected to change by less than this since it was last computed
    /// reuse what it gave then (TeaCache); 0: none does.
    double step_cache = 0;
    AttentionParameters attention;
};

/// The ranges of what is set, whatever the model. Throws Error(invalid_argument) with the field.
void check(const GenerationParameters& parameters);

struct PipelineOptions {
    Storage storage = Storage::fp32;
    /// Rounds the transformers' weights to so many bits as they are loaded, without calibration:
    /// 8. For models in floating point and in blocks of GGUF files.
    std::optional<int> requantize = {};
    bool profile = false;  ///< collect timestamps per operation
};

/// Tells what a run is doing; `done` of `total` are denoising steps in stage "denoise", else equal
/// parts of the stage.
struct Progress {
    const char* stage = "";  ///< "load", "text", "denoise", "decode"
    int done = 0;
    int total = 0;
    double elapsed_seconds = 0;     ///< since generate() began
    double remaining_seconds = -1;  ///< estimate for this stage; negative: not known yet
};

enum class StageKind { text_encoder, transformer, autoencoder };

/// One stage's memory, known before anything is allocated.
struct StagePlan {
    StageKind kind = StageKind::transformer;
    std::string stage;  ///< its name to people: "text_encoder", "dit" or "vae"
    std::uint64_t weight_bytes = 0;
    std::uint64_t activation_bytes = 0;
    std::uint64_t residual_bytes = 0;  ///< what SSAR keeps between steps; 0 without
    std::uint64_t staging_bytes = 0;
    std::uint64_t largest_binding_bytes = 0;
    std::uint64_t operations = 0;  ///< dispatches of one pass
    /// Of host memory, from which layers are streamed one after another when they don't all fit.
    std::uint64_t host_bytes = 0;
    std::string residency;  ///< "all resident", or what is streamed from host memory
    /// Of the device.
    std::uint64_t total_bytes() const {
        return weight_bytes + activation_bytes + residual_bytes + staging_bytes;
    }
};

struct MemoryPlan {
    std::vector<StagePlan> stages;
    std::uint64_t peak_bytes = 0;      ///< stages run one after another: the largest of them
    std::uint64_t budget_bytes = 0;    ///< what the device (or its memory limit) allows; 0: unknown
    std::uint64_t resident_bytes = 0;  ///< what the transformer takes if nothing is streamed
    std::uint64_t least_bytes = 0;     ///< the smallest budget that works
    bool fits() const { return budget_bytes == 0 || peak_bytes <= budget_bytes; }
    /// One line: how the clip is fitted into the budget, and why so.
    std::string decision() const;
    /// Throws Error(out_of_memory) naming the least that works.
    void require_fit() const;
};

struct GenerationCallbacks {
    /// Called between submissions, at least once a second; returning false cancels.
    std::function<bool(const Progress&)> progress;
    /// Called every `preview_interval` steps with the first frame as the clip is heading.
    std::function<void(const Picture&, int step)> preview;
    int preview_interval = 0;
    /// Called before each step with its latent [z, f, h, w], which may be changed; returning false
    /// leaves the step out: nothing is predicted and the latent stays. For measurements on given
    /// latents.
    std::function<bool(int step, std::span<float> latent)> before_step;
    /// Called with what the transformer predicts of that latent (of a flow: the velocity), guidance
    /// applied.
    std::function<void(int step, std::span<const float> prediction)> predicted;
    bool decode = true;  ///< false: no autoencoder runs, and the clip has latents alone
    /// Called with each frame in order, as soon as it is decoded: [height, width, 3]. With tiles,
    /// all come when the last tile is there. That a clip is no picture is known after its last
    /// frame.
    std::function<void(int frame, std::span<const std::uint8_t> rgb)> frame;
    bool keep_frames = true;  ///< false: Video::rgb stays empty, host memory does not hold the clip
    /// Called once, before anything is allocated.
    std::function<void(const MemoryPlan&)> plan;
    /// Called with one line about something that was done differently from what was asked, for
    /// example a prompt that was cut.
    std::function<void(const std::string&)> warning;
};

struct Video {
    int width = 0;
    int height = 0;
    int frames = 0;
    double fps = 16;
    std::vector<std::uint8_t> rgb;  ///< [frames, height, width, 3]; empty where it is not kept
    std::vector<float> latents;     ///< final latents [z, f, h, w], normalised as the DiT sees them
    std::vector<int> latent_shape;
};

struct OperationTime {
    std::string stage;
    std::string operation;
    std::uint64_t calls = 0;
    double milliseconds = 0;
};

/// What sparse attention decided in a layer during the last run.
struct AttentionLayer {
    int layer = 0;
    int branch = 0;                         ///< 0: conditional, 1: unconditional
    std::vector<std::uint32_t> head_types;  ///< at the last refresh: 0 spatial, 1 temporal
    std::vector<std::uint32_t> flips;       ///< how often a head's type changed between refreshes
    std::uint32_t refused = 0;     ///< refreshes whose difference was too large to be a trend
    std::uint32_t non_finite = 0;  ///< refreshes whose residual was not finite
    /// Of each head the share of pairs inside the blocks that MaskMode::topk last chose; else
    /// empty.
    std::vector<double> densities;
};

struct StageTime {
    std::string stage;
    double seconds = 0;
};

/// How many of a clip's steps are computed in which way.
struct StepCounts {
    int dense = 0;    ///< attention over all keys
    int refresh = 0;  ///< the same, and SSAR's residual is renewed
    int sparse = 0;
    int reused = 0;  ///< the transformer's blocks are not run
};

struct ModelSummary {
    std::string architecture;                         ///< "wan2.1-t2v"
    std::string quantization;                         ///< "none" or "w4a8", "w6a6", ...
    std::uint64_t transformer_linear_bytes = 0;       ///< the block linears as stored
    std::uint64_t transformer_linear_bf16_bytes = 0;  ///< the same in bf16
    int native_width = 0, native_height = 0, native_frames = 0;
    double fps = 16;
    int default_steps = 50;
    double default_guidance_scale = 5;
    double default_flow_shift = 5;
    Sampler default_sampler = Sampler::unipc;
    std::vector<std::string> warnings;  ///< a line each: what the files hold that is not used
};

class Generator {
  public:
    /// Opens a model in any layout that ModelFiles names. `device` must outlive the object.
    Generator(const ModelFiles& files, Device& device, const PipelineOptions& = {});
    Generator(const std::filesystem::path& model, Device& device,
              const PipelineOptions& options = {})
        : Generator(ModelFiles{model, {}}, device, options) {}
    ~Generator();
    Generator(Generator&&) noexcept;

    const ModelSummary& summary() const;

    /// Sets what is not set; throws Error(invalid_argument) with the field for values that the
    /// model can't do, saying the nearest ones it can.
    GenerationParameters resolve(const GenerationParameters& parameters) const;

    /// How `generate` will compute its steps. Throws as resolve() does.
    StepCounts step_counts(const GenerationParameters& parameters) const;

    /// What `generate` will allocate. Needs no free memory itself.
    MemoryPlan plan(const GenerationParameters& parameters) const;

    /// Blocks until the clip is done; std::nullopt when a callback cancelled. Throws
    /// Error(out_of_memory) before allocating when the plan exceeds the budget, and
    /// Error(non_finite) when the result is not a picture.
    std::optional<Video> generate(const GenerationParameters& parameters,
                                  const GenerationCallbacks& callbacks = {});

    std::vector<OperationTime> profile() const;  ///< of the last run, empty without `profile`
    std::vector<StageTime> stage_times() const;  ///< of the last run
    /// Of the last run; empty without `profile`, or with neither residuals nor chosen blocks.
    std::vector<AttentionLayer> attention_layers() const;

    struct Impl;  ///< of the library

  private:
    std::unique_ptr<Impl> impl_;
};

/// The name of versions before 0.2; goes with the next.
using TextToVideo = Generator;

}  // namespace quantsparse
