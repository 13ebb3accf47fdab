// Noise levels and timesteps of the samplers, and the log-SNR arithmetic they share.
#pragma once

#include <vector>

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

struct Schedule {
    std::vector<float> sigmas;     ///< steps + 1 noise levels, falling, the last one 0
    std::vector<double> signals;   ///< what is left of the data there, the last one 1
    std::vector<float> timesteps;  ///< steps values on the 0..1000 scale
};

/// wan facts 29, 30 and 34, few-step facts 79 to 82. Throws as make_scheduler() does.
Schedule make_schedule(const SamplerOptions& options);
inline Schedule make_schedule(Sampler kind, int steps, double shift) {
    return make_schedule({kind, steps, Prediction::velocity, FlowShift{shift}, 0, 0, {}});
}

/// One integration interval from noise level `sigma` to `sigma_next`, in the variable
/// lambda = log(1 - sigma) - log(sigma) (wan fact 31). The ends sigma 1 and 0 give infinite h;
/// every factor below is finite there.
struct Interval {
    Interval(double sigma, double sigma_next);

    double ratio;   ///< sigma_next / sigma: what is left of the sample
    double weight;  ///< -(1 - sigma_next) * expm1(-h): what the data prediction adds
    double lambda;  ///< at `sigma`
    double h;       ///< lambda_next - lambda; 0 when both levels round to the same float
};

double log_snr(double sigma);

}  // namespace quantsparse::sampling
