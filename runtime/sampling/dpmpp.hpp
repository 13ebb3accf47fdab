// DPM-Solver++ 2M, midpoint form, on the flow's data prediction (wan fact 33).
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class DpmppScheduler final : public Scheduler {
  public:
    explicit DpmppScheduler(const SamplerOptions& options) : Scheduler(options) {}
    void step(std::span<float> sample, std::span<const float> prediction) override;

  private:
    std::vector<double> previous_prediction_;  ///< m1: the data prediction one step back
};

}  // namespace quantsparse::sampling
