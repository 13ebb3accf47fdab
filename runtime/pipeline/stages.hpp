// The three stages of text to video, each with its own Program and memory, run one after another:
// text encoder, diffusion transformer, VAE decoder. text_to_video.cpp strings them together.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "attention/step_schedule.hpp"
#include "format/checkpoint.hpp"
#include "models/umt5_encoder.hpp"
#include "models/wan_dit.hpp"
#include "models/wan_vae.hpp"
#include "program/executor.hpp"
#include "program/plan.hpp"
#include "quantsparse/pipeline.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::pipeline {

/// Called between submissions; returning false cancels.
using Between = std::function<bool(int done, int total)>;
/// Where a stage leaves its operation times when profiling.
using ProfileSink = std::function<void(const std::vector<program::OperationProfile>&)>;

struct StageOptions {
    bool half = false;    ///< float weights as halves
    ProfileSink profile;  ///< set: collect timestamps
};

struct LatentShape {
    int channels = 0;
    int frames = 0;
    int height = 0;
    int width = 0;
    std::size_t count() const {
        return static_cast<std::size_t>(channels) * static_cast<std::size_t>(frames) *
               static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
    }
};

program::Limits device_limits(const vulkan::Device& device);

// ---- text encoder ---------------------------------------------------------------------------

/// Hidden states of the valid tokens, fp32 [valid, dim]; empty when cancelled.
std::vector<float> encode_tokens(vulkan::Device& device, const format::Umt5Config& config,
                                 const format::Checkpoint& checkpoint, const std::vector<int>& ids,
                                 int valid, const StageOptions& options,
                                 const Between& between = {});

// ---- diffusion transformer --------------------------------------------------------------------

/// `schedule`: of sparse attention; nullptr: every step is dense.
models::WanDitOptions dit_options(const format::ModelBundle& bundle, const LatentShape& latent,
                                  int branches, bool half,
                                  const attention::StepSchedule* schedule = nullptr);

class Denoiser {
  public:
    /// Allocates and brings the weights.
    Denoiser(vulkan::Device& device, const format::ModelBundle& bundle, const LatentShape& latent,
             int branches, const StageOptions& options,
             const attention::StepSchedule* schedule = nullptr,
             const program::Residency& residency = {}, const Between& between = {});
    ~Denoiser();

    /// False when cancelled before all weights were there: nothing else may be called then.
    bool loaded() const { return loaded_; }
    /// `hidden`: fp32 [rows, text_dim], zero-padded to text_len here. False when cancelled.
    bool set_context(int branch, std::span<const float> hidden, const Between& between = {});
    /// The steps to come are this one of the schedule; without a schedule there is nothing to say.
    void begin_step(int step);
    /// v(latent, timestep) of the branch; empty when cancelled.
    std::vector<float> velocity(int branch, std::span<const float> latent, double timestep,
                                const Between& between = {});
    /// Where values stopped being finite; empty when they didn't, or not in the transformer.
    std::string non_finite_site() const { return dit_->non_finite_site(*executor_); }
    /// Empty without residuals.
    std::vector<AttentionLayer> attention_layers() const;
    double longest_submission_seconds() const { return executor_->longest_submission_seconds(); }

  private:
    StageOptions options_;
    LatentShape latent_;
    format::WanDitConfig config_;
    program::Program program_;  ///< only while building; the executor has its own copy
    std::unique_ptr<models::WanDit> dit_;
    std::unique_ptr<program::Executor> executor_;
    std::optional<attention::StepSchedule> schedule_;
    attention::StepKind kind_ = attention::StepKind::dense;
    bool loaded_ = false;
};

// ---- VAE ----------------------------------------------------------------------------------------

/// Latent cells of a decoding tile: the whole picture when it fits the device, else the largest
/// square that does.
struct VaeTile {
    int height = 0;
    int width = 0;
};
/// What the smallest tile takes; 0 when not even that suits the device.
std::uint64_t least_vae_bytes(const program::Limits& limits, const format::WanVaeConfig& config,
                              int height, int width);
/// Throws Error(out_of_memory) when not even the smallest tile fits.
VaeTile choose_vae_tile(const program::Limits& limits, const format::WanVaeConfig& config,
                        int height, int width, std::uint64_t budget_bytes);

/// Normalised latents [z, f, h, w] to unclamped RGB [3, frames, height, width]; tiles overlap by a
/// quarter and are blended linearly. Empty when cancelled.
models::Clip decode_latents(vulkan::Device& device, const format::WanVaeConfig& config,
                            const format::Checkpoint& checkpoint, const models::Clip& latents,
                            const VaeTile& tile, const StageOptions& options,
                            const Between& between = {});

/// RGB in [-1, 1] to normalised latent means.
models::Clip encode_video(vulkan::Device& device, const format::WanVaeConfig& config,
                          const format::Checkpoint& checkpoint, const models::Clip& video,
                          const StageOptions& options, const Between& between = {});

/// Clamped, truncated to bytes (wan fact 37): [frames, height, width, 3].
std::vector<std::uint8_t> to_rgb8(const models::Clip& video);

// ---- planning -----------------------------------------------------------------------------------

StagePlan stage_plan(const char* name, const program::Program& program,
                     const program::Residency& residency = {});

struct StagesPlan {
    MemoryPlan memory;
    program::Residency residency;  ///< of the transformer
    VaeTile tile;                  ///< zeros where none fits
};
/// Fits all stages into `budget_bytes` (0: no limit) as far as streaming and tiling can.
StagesPlan plan_stages(const program::Limits& limits, const format::ModelBundle& bundle,
                       const models::WanDitOptions& transformer, std::uint64_t budget_bytes);

}  // namespace quantsparse::pipeline
