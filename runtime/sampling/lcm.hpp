// Latent consistency steps on the flow, and those of dmd (few-step facts 80, 81): from the data
// that a step predicts back to the next noise level with fresh noise.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class LcmScheduler final : public Scheduler {
  public:
    explicit LcmScheduler(const SamplerOptions& options) : Scheduler(options) {}
    void step(std::span<float> sample, std::span<const float> prediction) override;
};

}  // namespace quantsparse::sampling
