// Which attention each step and layer computes, and what is added to sparse attention there.
// Host logic only: everything is known before the first step.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quantsparse/attention.hpp"

namespace quantsparse::attention {

enum class StepKind {
    dense,    ///< full attention, nothing else
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

class StepSchedule {
  public:
    /// `sigmas`: the sampler's noise levels, one a step. `reused`: of as many steps, those that do
    /// without attention; none when empty. Refreshes count the others.
    StepSchedule(const AttentionParameters& parameters, std::span<const float> sigmas,
                 const std::vector<bool>& reused = {});

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
    /// `index` among the `computed` steps that aren't reused.
    bool is_refresh(int index, int computed) const;

    AttentionParameters parameters_;
    std::vector<float> sigmas_;
    std::vector<StepKind> kinds_;
};

/// First steps that are dense by default: none with SSAR, a fifth with static sparsity.
int resolved_dense_steps(const AttentionParameters& parameters, int steps);

}  // namespace quantsparse::attention
