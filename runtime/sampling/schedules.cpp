#include "sampling/schedules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/dpmpp.hpp"
#include "sampling/euler.hpp"
#include "sampling/lcm.hpp"
#include "sampling/unipc.hpp"

namespace quantsparse::sampling {
namespace {

constexpr double kTrainTimesteps = 1000;

// Upstream's UniPC starts at 1 - 1/1000 kept in fp32 (wan fact 29).
constexpr double kUnipcStart = static_cast<double>(0.999f);

// Upper end of `steps`: more than the number of training timesteps only repeats timesteps.
constexpr int kMaxSteps = 1000;

double shifted(double s, double shift) {
    return shift * s / (1 + (shift - 1) * s);
}

void check_shift(double shift) {
    if (!(shift > 0) || !std::isfinite(shift)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("flow shift is {}: it must be greater than 0 (3 to 12 are usual)", shift));
    }
}

void check_steps(int steps) {
    if (steps < 1 || steps > kMaxSteps) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("steps is {}: it must lie between 1 and {}", steps, kMaxSteps));
    }
}

/// `truncated`: timesteps are integers.
Schedule spread(const SamplerOptions& options, double shift) {
    const int steps = options.steps;
    check_steps(steps);
    check_shift(shift);
    const bool truncated = options.kind == Sampler::unipc || options.kind == Sampler::dpmpp;
    double start = options.kind == Sampler::unipc ? kUnipcStart : 1.0;
    double increment = (0.0 - start) / steps;
    if (options.kind == Sampler::lcm) {
        // From 1 to the shifted last training level, both included, and shifted once more.
        const double least = shifted(1.0 / kTrainTimesteps, shift);
        increment = steps > 1 ? (least - start) / (steps - 1) : 0;
    }
    Schedule schedule;
    for (int i = 0; i < steps; ++i) {
        // The order of operations matters: some timesteps sit one rounding error below an integer
        // and are truncated (wan fact 30).
        const double s = i * increment + start;
        // Never above 1, which cancellation in the denominator could bring for a tiny shift.
        const double sigma = std::min(shifted(s, shift), 1.0);
        const float rounded = static_cast<float>(sigma);
        schedule.sigmas.push_back(rounded);
        schedule.timesteps.push_back(truncated
                                         ? static_cast<float>(std::trunc(sigma * kTrainTimesteps))
                                         : rounded * static_cast<float>(kTrainTimesteps));
    }
    return schedule;
}

Schedule given(const SamplerOptions& options, const GivenSigmas& noise) {
    if (options.kind != Sampler::euler && options.kind != Sampler::lcm) {
        throw Error(ErrorCode::invalid_argument,
                    "given noise levels need the sampler euler or lcm");
    }
    check_steps(static_cast<int>(noise.sigmas.size()));
    check_shift(noise.shift);
    Schedule schedule;
    double before = 1 + 1e-9;
    for (const double s : noise.sigmas) {
        if (!(s > 0 && s < before)) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("the noise level {} makes no sense: levels fall from at most "
                                    "1 and stay above 0",
                                    s));
        }
        before = s;
        const float rounded = static_cast<float>(shifted(s, noise.shift));
        schedule.sigmas.push_back(rounded);
        schedule.timesteps.push_back(rounded * static_cast<float>(kTrainTimesteps));
    }
    return schedule;
}

}  // namespace

Schedule make_schedule(const SamplerOptions& options) {
    Schedule schedule;
    if (const auto* sigmas = std::get_if<GivenSigmas>(&options.noise)) {
        schedule = given(options, *sigmas);
    } else {
        schedule = spread(options, std::get<FlowShift>(options.noise).shift);
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

Scheduler::Scheduler(const SamplerOptions& options) : options_(options) {
    Schedule schedule = make_schedule(options);
    sigmas_ = std::move(schedule.sigmas);
    timesteps_ = std::move(schedule.timesteps);
}

std::size_t Scheduler::begin_step(std::span<const float> sample,
                                  std::span<const float> prediction) {
    if (next_step_ >= timesteps_.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the sampler was asked for step {} of {}: make a new one per clip",
                                next_step_ + 1, timesteps_.size()));
    }
    if (next_step_ == 0) {
        value_count_ = sample.size();
    }
    if (sample.size() != value_count_ || prediction.size() != value_count_) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("sampler step {}: expected {} values, got {} samples and {} "
                                "predictions",
                                next_step_ + 1, value_count_, sample.size(), prediction.size()));
    }
    const double sigma = sigmas_[next_step_];
    data_prediction_.resize(sample.size());
    if (options_.prediction == Prediction::velocity) {
        for (std::size_t k = 0; k < sample.size(); ++k) {
            data_prediction_[k] = sample[k] - sigma * prediction[k];
        }
    } else {
        // At sigma 1 nothing of the data is left to tell it by.
        const double signal = std::max(1 - sigma, 1 / kTrainTimesteps);
        for (std::size_t k = 0; k < sample.size(); ++k) {
            data_prediction_[k] = (sample[k] - sigma * prediction[k]) / signal;
        }
    }
    return next_step_++;
}

std::unique_ptr<Scheduler> make_scheduler(const SamplerOptions& options) {
    switch (options.kind) {
        case Sampler::unipc:
            return std::make_unique<UnipcScheduler>(options);
        case Sampler::dpmpp:
            return std::make_unique<DpmppScheduler>(options);
        case Sampler::euler:
            return std::make_unique<EulerScheduler>(options);
        case Sampler::lcm:
            return std::make_unique<LcmScheduler>(options);
    }
    throw Error(ErrorCode::invalid_argument, "unknown sampler: choose unipc, dpm++, euler or lcm");
}

}  // namespace quantsparse::sampling
