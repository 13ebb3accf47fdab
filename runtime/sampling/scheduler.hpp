// Flow-matching samplers as upstream Wan2.1 numbers them (wan facts 29-35). CPU only, no Vulkan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace quantsparse::sampling {

enum class SamplerKind { unipc, dpmpp, euler };

/// Integrates dx/dsigma = v from noise (sigma 1) to data (sigma 0).
///
///     for i in 0..steps-1: v = model(x, timestep(i)); x = step(x, v)
class Scheduler {
  public:
    virtual ~Scheduler() = default;
    int steps() const { return static_cast<int>(timesteps_.size()); }
    const std::vector<float>& sigmas() const { return sigmas_; }        ///< steps + 1, last is 0
    const std::vector<float>& timesteps() const { return timesteps_; }  ///< what the model receives
    /// Advances `sample` in place by one step; call exactly `steps()` times, in order.
    virtual void step(std::span<float> sample, std::span<const float> velocity) = 0;

    /// The data prediction x - sigma * v of the last step: where the clip is heading (previews).
    /// Empty before the first step.
    const std::vector<double>& data_prediction() const { return data_prediction_; }

  protected:
    /// Checks order and sizes, sets data_prediction_ and returns the index of this step.
    std::size_t begin_step(std::span<const float> sample, std::span<const float> velocity);

    std::vector<float> sigmas_;
    std::vector<float> timesteps_;
    std::vector<double> data_prediction_;

  private:
    std::size_t next_step_ = 0;
    std::size_t value_count_ = 0;  ///< of the sample, fixed by the first step
};

/// Throws Error(invalid_argument) for steps < 1, shift <= 0.
std::unique_ptr<Scheduler> make_scheduler(SamplerKind kind, int steps, double shift);

/// Philox-4x32-10 with Box-Muller: element i of the stream of `seed` is the same on every machine.
/// Computed in double, rounded to float once.
void fill_gaussian(std::uint64_t seed, std::span<float> out);

/// v = v_uncond + scale * (v_cond - v_uncond), in place into `cond`.
void apply_guidance(std::span<float> cond, std::span<const float> uncond, float scale);

}  // namespace quantsparse::sampling
