// Samplers: those of upstream Wan2.1 on the flow (wan facts 29-35), of distilled models (few-step
// facts 79-82), and on variance-preserving levels (hunyuan-dit facts 41-44). CPU only, no Vulkan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "quantsparse/sampler.hpp"

namespace quantsparse::sampling {

/// What a model gives for x = signal * data + sigma * noise.
enum class Prediction {
    velocity,  ///< noise - data, of the flow: signal = 1 - sigma
    epsilon,   ///< the noise
    v,         ///< signal * noise - sigma * data, of variance-preserving levels (Betas)
};

/// Noise levels spread evenly, then moved towards noise: s' = shift s / (1 + (shift - 1) s).
struct FlowShift {
    double shift = 5;
};
/// Given ones, as for distilled models: falling, above 0 and at most 1, before the same shift. The
/// model receives 1000 times the shifted level, not truncated. For euler and lcm.
struct GivenSigmas {
    std::vector<double> sigmas;
    double shift = 1;
};
/// Given timesteps, falling whole numbers of 1 to 1000, which the model receives as they are. The
/// level of each is looked up: of the levels 1/1000 ... 1, moved by the shift as above, the one
/// whose 1000-fold is nearest (few-step fact 81). For dmd.
struct TableTimesteps {
    std::vector<double> timesteps;
    double shift = 8;
};
/// Times on a quarter circle (few-step fact 82). For rcm.
struct RcmTimes {
    double sigma_max = 80;
    bool bf16_timesteps = true;  ///< the model receives 1000 times the time rounded to bf16
    bool fresh_noise = true;     ///< false: Euler's rule between the times
};

/// Variance-preserving levels, signal^2 + sigma^2 = 1, from betas whose roots are spread evenly
/// (hunyuan-dit facts 41, 42). For ddim.
struct Betas {
    double first = 0.00085;
    double last = 0.02;
};

struct SamplerOptions {
    Sampler kind = Sampler::unipc;
    int steps = 50;  ///< with given sigmas or timesteps: as many as are given; rcm: 1 to 4
    Prediction prediction = Prediction::velocity;
    std::variant<FlowShift, GivenSigmas, TableTimesteps, RcmTimes, Betas> noise;
    double eta = 0;          ///< of ddim: share of fresh noise, 0 none, 1 as DDPM
    std::uint64_t seed = 0;  ///< of the noise that samplers add on the way
    /// Where that noise comes from; empty: Philox, at (seed, step).
    std::function<void(int step, std::span<float> out)> draw;
};

/// Leads from noise to data: on the flow it integrates dx/dsigma = v from sigma 1 to 0.
///
///     start(x); for i in 0..steps-1: p = model(x, timestep(i)); x = step(x, p)
class Scheduler {
  public:
    virtual ~Scheduler() = default;
    int steps() const { return static_cast<int>(timesteps_.size()); }
    const std::vector<float>& sigmas() const { return sigmas_; }        ///< steps + 1, last is 0
    const std::vector<float>& timesteps() const { return timesteps_; }  ///< what the model receives
    /// Makes of a clip's first noise, in place, the sample that step 0 expects. Only rcm changes
    /// it.
    virtual void start(std::span<float> /*noise*/) {}
    /// Advances `sample` in place by one step; call exactly `steps()` times, in order.
    virtual void step(std::span<float> sample, std::span<const float> prediction) = 0;

    /// The clean data that the last step's prediction means: where the clip is heading (previews).
    /// Empty before the first step.
    const std::vector<double>& data_prediction() const { return data_prediction_; }

  protected:
    explicit Scheduler(const SamplerOptions& options);
    /// Checks order and sizes, sets data_prediction_ and returns the index of this step.
    std::size_t begin_step(std::span<const float> sample, std::span<const float> prediction);

    SamplerOptions options_;
    /// Fresh noise for the step: the options' own, else Philox.
    void draw(std::size_t step, std::span<float> out) const;

    std::vector<float> sigmas_;
    std::vector<double> signals_;  ///< what is left of the data at each level; steps + 1, last is 1
    std::vector<float> timesteps_;
    std::vector<double> data_prediction_;

  private:
    std::size_t next_step_ = 0;
    std::size_t value_count_ = 0;  ///< of the sample, fixed by the first step
};

/// Throws Error(invalid_argument) for steps < 1, shift <= 0, given levels that don't fall and
/// samplers that can't take them.
std::unique_ptr<Scheduler> make_scheduler(const SamplerOptions& options);
inline std::unique_ptr<Scheduler> make_scheduler(Sampler kind, int steps, double shift) {
    return make_scheduler({kind, steps, Prediction::velocity, FlowShift{shift}, 0, 0, {}});
}

/// Philox-4x32-10 with Box-Muller: element i of a stream of `seed` is the same on every machine.
/// Stream 0 is a clip's first noise. Computed in double, rounded to float once.
void fill_gaussian(std::uint64_t seed, std::span<float> out, std::uint32_t stream = 0);

/// v = v_uncond + scale * (v_cond - v_uncond), in place into `cond`.
void apply_guidance(std::span<float> cond, std::span<const float> uncond, float scale);

}  // namespace quantsparse::sampling
