// DDIM on variance-preserving levels (hunyuan-dit facts 43, 44): with eta 1 it is DDPM's posterior.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class DdimScheduler final : public Scheduler {
  public:
    explicit DdimScheduler(const SamplerOptions& options) : Scheduler(options) {}
    void step(std::span<float> sample, std::span<const float> prediction) override;
};

}  // namespace quantsparse::sampling
