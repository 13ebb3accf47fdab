// A transformer with its weights on the device, asked for one prediction after another.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/step_schedule.hpp"
#include "models/denoising_network.hpp"
#include "pipeline/stage.hpp"

namespace quantsparse::pipeline {

using models::LatentShape;

/// `schedule`: of sparse attention; nullptr: every step is dense.
models::DenoisingOptions denoising_options(const format::Component& transformer,
                                           const format::Quantization& quantization,
                                           const LatentShape& latent, int branches, bool half,
                                           const attention::StepSchedule* schedule = nullptr);

class Denoiser {
  public:
    /// Allocates and brings the weights. `transformer` must outlive the object.
    Denoiser(vulkan::Device& device, const format::Component& transformer,
             const models::DenoisingOptions& network_options, const StageOptions& options,
             const attention::StepSchedule* schedule = nullptr,
             const program::Residency& residency = {}, const Between& between = {});
    ~Denoiser();

    /// False when cancelled before all weights were there: nothing else may be called then.
    bool loaded() const { return loaded_; }
    /// Values of an input by its name, for the phases to come. Throws Error(unsupported) for one
    /// that the transformer doesn't have.
    void write(std::string_view input, std::span<const float> values);
    /// After the inputs that change with the prompt; false when cancelled.
    bool set_prompt(int branch, const Between& between = {});
    /// The steps to come are this one of the schedule; without a schedule there is nothing to say.
    void begin_step(int step);
    /// What the transformer predicts for the branch; empty when cancelled. Throws
    /// Error(unsupported) naming an input that nobody has written.
    std::vector<float> predict(int branch, std::span<const float> latent, double timestep,
                               const Between& between = {});
    /// Where values stopped being finite; empty when they didn't, or not in the transformer.
    std::string non_finite_site() const { return network_->non_finite_site(*executor_); }
    /// Empty without residuals.
    std::vector<AttentionLayer> attention_layers() const;
    double longest_submission_seconds() const { return executor_->longest_submission_seconds(); }

  private:
    void require_inputs() const;

    StageOptions options_;
    std::size_t prediction_count_ = 0;
    program::Program program_;  ///< only while building; the executor has its own copy
    std::unique_ptr<models::DenoisingNetwork> network_;
    std::unique_ptr<program::Executor> executor_;
    std::optional<attention::StepSchedule> schedule_;
    attention::StepKind kind_ = attention::StepKind::dense;
    std::set<std::string, std::less<>> written_;  ///< inputs
    bool loaded_ = false;
};

}  // namespace quantsparse::pipeline
