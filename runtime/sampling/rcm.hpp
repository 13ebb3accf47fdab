// Steps of rCM, as TurboDiffusion makes them (few-step fact 82): as lcm, at times that stand on a
// quarter circle. The state stays in double between the steps.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

/// steps + 1 falling times in 0..1, the last one 0: sin u / (cos u + sin u) of
/// u = atan(sigma_max), 1.5, 1.4, 1.0. Throws Error(invalid_argument) for other than 1 to 4 steps.
std::vector<double> rcm_times(int steps, double sigma_max);

class RcmScheduler final : public Scheduler {
  public:
    explicit RcmScheduler(const SamplerOptions& options);
    /// Multiplies by the first time.
    void start(std::span<float> noise) override;
    void step(std::span<float> sample, std::span<const float> prediction) override;

  private:
    std::vector<double> times_;
    std::vector<double> state_;  ///< the sample in double
    bool fresh_noise_ = true;
};

}  // namespace quantsparse::sampling
