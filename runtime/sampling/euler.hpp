// Euler's rule on the flow (wan fact 34): the plainest sampler, one model call per step, no
// history.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class EulerScheduler final : public Scheduler {
  public:
    EulerScheduler(int steps, double shift);
    void step(std::span<float> sample, std::span<const float> velocity) override;
};

}  // namespace quantsparse::sampling
