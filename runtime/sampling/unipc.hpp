// UniPC (bh2, order 2, data prediction) on the flow (wan fact 32): each step first corrects the
// sample the last step predicted, then predicts the next one. One model call per step.
#pragma once

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

class UnipcScheduler final : public Scheduler {
  public:
    explicit UnipcScheduler(const SamplerOptions& options) : Scheduler(options) {}
    void step(std::span<float> sample, std::span<const float> prediction) override;

    const std::vector<double>& corrected_sample() const {
        return corrected_;
    }                                     ///< of the last step
    int order() const { return order_; }  ///< of the last step

  private:
    void correct(std::size_t step, std::span<const float> sample);

    std::vector<double> corrected_;  ///< sample at the last step's sigma, after its correction
    std::vector<double> newest_;     ///< m0: data prediction of the last step
    std::vector<double> older_;      ///< m1: the one before
    int order_ = 0;
};

}  // namespace quantsparse::sampling
