// Euler's rule on the flow (wan fact 34): the plainest sampler, one model call per step, no
// history.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class EulerScheduler final : public Scheduler {
  public:
    explicit EulerScheduler(const SamplerOptions& options) : Scheduler(options) {}
    void step(std::span<float> sample, std::span<const float> prediction) override;
};

}  // namespace quantsparse::sampling
