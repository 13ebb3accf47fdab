#include "sampling/schedules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/dpmpp.hpp"
#include "sampling/euler.hpp"
#include "sampling/unipc.hpp"

namespace quantsparse::sampling {
namespace {

constexpr double kTrainTimesteps = 1000;

// Upstream's UniPC starts at 1 - 1/1000 kept in fp32 (wan fact 29).
constexpr double kUnipcStart = static_cast<double>(0.999f);

// Upper end of `steps`: more than the number of training timesteps only repeats timesteps.
constexpr int kMaxSteps = 1000;

}  // namespace

Schedule make_schedule(SamplerKind kind, int steps, double shift) {
    if (steps < 1 || steps > kMaxSteps) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("steps is {}: it must lie between 1 and {}", steps, kMaxSteps));
    }
    if (!(shift > 0) || !std::isfinite(shift)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("flow shift is {}: it must be greater than 0 (3 to 12 are usual)", shift));
    }
    const double start = kind == SamplerKind::unipc ? kUnipcStart : 1.0;
    const double increment = (0.0 - start) / steps;
    Schedule schedule;
    for (int i = 0; i < steps; ++i) {
        // The order of operations matters: some timesteps sit one rounding error below an integer
        // and are truncated (wan fact 30).
        const double s = i * increment + start;
        // Never above 1, which cancellation in the denominator could bring for a tiny shift.
        const double sigma = std::min(shift * s / (1 + (shift - 1) * s), 1.0);
        const float rounded = static_cast<float>(sigma);
        schedule.sigmas.push_back(rounded);
        schedule.timesteps.push_back(kind == SamplerKind::euler
                                         ? rounded * static_cast<float>(kTrainTimesteps)
                                         : static_cast<float>(std::trunc(sigma * kTrainTimesteps)));
    }
    schedule.sigmas.push_back(0);
    return schedule;
}

double log_snr(double sigma) {
    return std::log1p(-sigma) - std::log(sigma);
}

Interval::Interval(double sigma, double sigma_next) : lambda(log_snr(sigma)) {
    if (sigma == sigma_next) {  // extreme shifts: neighbours round to one float, nothing to do
        ratio = 1;
        weight = 0;
        h = 0;
        return;
    }
    h = log_snr(sigma_next) - lambda;
    ratio = sigma_next / sigma;
    weight = -(1 - sigma_next) * std::expm1(-h);
}

std::size_t Scheduler::begin_step(std::span<const float> sample, std::span<const float> velocity) {
    if (next_step_ >= timesteps_.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the sampler was asked for step {} of {}: make a new one per clip",
                                next_step_ + 1, timesteps_.size()));
    }
    if (next_step_ == 0) {
        value_count_ = sample.size();
    }
    if (sample.size() != value_count_ || velocity.size() != value_count_) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("sampler step {}: expected {} values, got {} samples and {} "
                                "velocities",
                                next_step_ + 1, value_count_, sample.size(), velocity.size()));
    }
    const double sigma = sigmas_[next_step_];
    data_prediction_.resize(sample.size());
    for (std::size_t k = 0; k < sample.size(); ++k) {
        data_prediction_[k] = sample[k] - sigma * velocity[k];
    }
    return next_step_++;
}

std::unique_ptr<Scheduler> make_scheduler(SamplerKind kind, int steps, double shift) {
    switch (kind) {
        case SamplerKind::unipc:
            return std::make_unique<UnipcScheduler>(steps, shift);
        case SamplerKind::dpmpp:
            return std::make_unique<DpmppScheduler>(steps, shift);
        case SamplerKind::euler:
            return std::make_unique<EulerScheduler>(steps, shift);
    }
    throw Error(ErrorCode::invalid_argument, "unknown sampler: choose unipc, dpm++ or euler");
}

}  // namespace quantsparse::sampling
