// Which attention each step and layer computes, and what is added to sparse attention there.
// Host logic only: everything is known before the first step.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/refresh_plan.hpp"
#include "quantsparse/attention.hpp"

namespace quantsparse::attention {

enum class StepKind {
    dense,    ///< full attention, nothing else; with sla the model's own
    refresh,  ///< full attention; its difference to sparse attention becomes the newest reference
    sparse,   ///< sparse attention plus the correction
    reused,   ///< none: what the transformer's blocks last added is added again
};

/// What the device needs to know about a step (shaders/include/residual.glsl declares the same).
/// Row n of `coefficients` is for heads with n usable references (0: none, 3: three or more):
/// weights of the history's slots, then of the low-rank difference.
struct Correction {
    std::array<std::array<float, 4>, 4> coefficients{};
    std::uint32_t write_slot = 0;  ///< refresh: where the new residual goes
    std::uint32_t read_slot = 0;   ///< refresh: where the residual before it is
    std::uint32_t reference = 0;   ///< refresh: its number, which seeds random columns
    std::uint32_t unused = 0;
};
static_assert(sizeof(Correction) == 80);

/// Residuals kept: 3 for `third`, 2 for `second`, 1 for `first` and `svd`, else none.
int history_slots(SsarMode mode);

/// What refreshes are placed by, besides the noise levels.
struct Drift {
    const DriftCurve* curve = &usual_drift();
    float last_sigma = 0;      ///< after the last step
    bool fresh_noise = false;  ///< the sampler adds new noise after each step
};

class StepSchedule {
  public:
    /// `sigmas`: the sampler's noise levels, one a step. `reused`: of as many steps, those that do
    /// without attention; none when empty. Refreshes count the others; a listed refresh that would
    /// be reused moves to the next step that isn't.
    StepSchedule(const AttentionParameters& parameters, std::span<const float> sigmas,
                 const std::vector<bool>& reused = {}, const Drift& drift = {});

    /// With everything set that a default of the number of steps decides.
    const AttentionParameters& parameters() const { return parameters_; }
    int steps() const { return static_cast<int>(kinds_.size()); }
    StepKind kind(int step, int layer) const;
    /// Of the layers that are not always dense.
    StepKind kind(int step) const { return kinds_[static_cast<std::size_t>(step)]; }
    bool layer_is_dense(int layer) const;
    bool has(StepKind kind) const;
    int count(StepKind kind) const;

    /// Meaningful for refresh and sparse steps.
    Correction correction(int step) const;

  private:
    /// Which of the `computed` steps, those that aren't reused, are refreshes.
    std::vector<bool> refreshes(const std::vector<int>& computed, const Drift& drift) const;
    std::vector<bool> periodic(std::size_t count) const;
    std::vector<bool> listed(const std::vector<int>& computed) const;
    std::vector<bool> placed(const std::vector<int>& computed, const Drift& drift) const;

    AttentionParameters parameters_;
    std::vector<float> sigmas_;
    std::vector<StepKind> kinds_;
};

/// The share of pairs asked for, or that of the kind.
double density_of(const AttentionParameters& parameters);

/// Sets the density and what a clip's number of steps decides: the correction's order, and the
/// first steps that are dense: none with SSAR, a fifth with static sparsity.
AttentionParameters resolved(AttentionParameters parameters, int steps);

}  // namespace quantsparse::attention
