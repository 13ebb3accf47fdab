// All inputs of the clips that a calibration generates, and what presets choose their samples by
// (method 7.2).
#pragma once

#include <optional>
#include <vector>

#include "calib/options.hpp"
#include "calib/samples.hpp"
#include "calib/transformer.hpp"

namespace quantsparse::calib {

class Candidates {
  public:
    /// `inputs`: forwards in each step, clip by clip with their `branches`.
    Candidates(const format::Component& transformer, const CalibrationOptions& options,
               std::size_t inputs, std::size_t branches);

    /// What enters a block. Threads may call it at once for different inputs.
    void observe(std::size_t input, int block, const BlockState& state);
    /// After each step, with the floating-point transformer's predictions.
    void end_step(const Transformer& transformer, std::vector<TransformerInput> inputs,
                  const std::vector<at::Tensor>& predictions);

    /// Up to `count`, none of `held_out`. `last`: what the clips' latents are after the last step.
    std::vector<SampleChoice> choose(std::size_t count, const std::vector<SampleChoice>& held_out,
                                     const std::vector<at::Tensor>& last) const;
    const TransformerInput& input_of(const SampleChoice& choice) const;

  private:
    struct Candidate {
        TransformerInput input;
        double change = 0;                 ///< of the prediction by rounding
        std::vector<double> statistics;    ///< mean and deviation of what enters the last blocks
        std::vector<double> similarities;  ///< of each later frame to the first
    };

    SampleChoice choice_of(std::size_t index) const;
    std::vector<std::size_t> salient(const std::vector<std::size_t>& allowed, std::size_t count,
                                     const std::vector<at::Tensor>& last) const;
    std::vector<std::size_t> diverse(const std::vector<std::size_t>& allowed,
                                     std::size_t count) const;

    const format::Component& component_;
    const CalibrationOptions& options_;
    const SampleSelection selection_;
    const std::size_t inputs_, branches_;
    std::vector<Candidate> step_;  ///< of the step that runs
    std::vector<Candidate> all_;   ///< step by step
};

}  // namespace quantsparse::calib
