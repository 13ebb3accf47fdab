#include "sampling/schedules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/ddim.hpp"
#include "sampling/dpmpp.hpp"
#include "sampling/euler.hpp"
#include "sampling/lcm.hpp"
#include "sampling/rcm.hpp"
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
        throw Error(ErrorCode::invalid_argument, "given noise levels need the sampler euler or lcm",
                    "sampler");
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

/// Of the levels of 1000 training steps, in fp32 as the reference keeps them, the one nearest to
/// `timestep`; of two, the higher.
float nearest_level(float timestep, float shift) {
    float nearest = 1;
    for (int k = static_cast<int>(kTrainTimesteps); k > 0; --k) {
        const float s = static_cast<float>(k) / static_cast<float>(kTrainTimesteps);
        const float level = shift * s / (1 + (shift - 1) * s);
        const auto distance = [&](float sigma) {
            return std::abs(sigma * static_cast<float>(kTrainTimesteps) - timestep);
        };
        if (distance(level) < distance(nearest)) nearest = level;
    }
    return nearest;
}

Schedule from_table(const TableTimesteps& noise) {
    check_steps(static_cast<int>(noise.timesteps.size()));
    check_shift(noise.shift);
    Schedule schedule;
    double before = kTrainTimesteps + 1;
    for (const double t : noise.timesteps) {
        if (!(t >= 1 && t < before && t == std::floor(t))) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("the timestep {} makes no sense: dmd takes whole ones that "
                                    "fall from at most 1000 and stay above 0",
                                    t),
                        "timesteps");
        }
        before = t;
        schedule.timesteps.push_back(static_cast<float>(t));
        schedule.sigmas.push_back(
            nearest_level(static_cast<float>(t), static_cast<float>(noise.shift)));
    }
    return schedule;
}

/// To the nearest, halves to even.
float rounded_to_bf16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return std::bit_cast<float>((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000);
}

Schedule on_the_circle(const SamplerOptions& options, const RcmTimes& noise) {
    Schedule schedule;
    for (const double time : rcm_times(options.steps, noise.sigma_max)) {
        const float sigma = static_cast<float>(time);
        const float timestep = sigma * static_cast<float>(kTrainTimesteps);
        schedule.sigmas.push_back(sigma);
        schedule.timesteps.push_back(noise.bf16_timesteps ? rounded_to_bf16(timestep) : timestep);
    }
    schedule.sigmas.pop_back();  // the 0 at the end
    schedule.timesteps.pop_back();
    return schedule;
}

/// Leading spacing with an offset of 1 (hunyuan-dit fact 42): 901, 801, ..., 1 for 10 steps.
Schedule from_betas(const SamplerOptions& options, const Betas& betas) {
    constexpr int kLevels = static_cast<int>(kTrainTimesteps);
    check_steps(options.steps);
    if (!(betas.first > 0 && betas.first <= betas.last && betas.last < 1)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("betas from {} to {} make no sense: they rise from above 0 to "
                                "below 1",
                                betas.first, betas.last));
    }
    std::vector<float> products;  // of 1 - beta, in fp32 as the reference keeps them
    float product = 1;
    for (int i = 0; i < kLevels; ++i) {
        const double root = std::lerp(std::sqrt(betas.first), std::sqrt(betas.last),
                                      i / static_cast<double>(kLevels - 1));
        product *= static_cast<float>(1 - root * root);
        products.push_back(product);
    }
    Schedule schedule;
    const int stride = kLevels / options.steps;
    for (int i = 0; i < options.steps; ++i) {
        const int t = std::min((options.steps - 1 - i) * stride + 1, kLevels - 1);
        const double kept = products[static_cast<std::size_t>(t)];
        schedule.timesteps.push_back(static_cast<float>(t));
        schedule.sigmas.push_back(static_cast<float>(std::sqrt(1 - kept)));
        schedule.signals.push_back(std::sqrt(kept));
    }
    return schedule;
}

/// Kinds of samplers, levels and predictions that go together.
void check_kinds(const SamplerOptions& options) {
    const bool betas = std::holds_alternative<Betas>(options.noise);
    if (betas != (options.kind == Sampler::ddim)) {
        throw Error(ErrorCode::invalid_argument,
                    "the sampler ddim goes with noise levels from betas, the others with a flow's",
                    "sampler");
    }
    if (std::holds_alternative<TableTimesteps>(options.noise) != (options.kind == Sampler::dmd)) {
        throw Error(ErrorCode::invalid_argument,
                    "the sampler dmd needs a list of whole timesteps, for example 1000, 757, 522",
                    "timesteps");
    }
    if (std::holds_alternative<RcmTimes>(options.noise) != (options.kind == Sampler::rcm)) {
        throw Error(ErrorCode::invalid_argument,
                    "the sampler rcm has its own times, which no other can take", "sampler");
    }
    const auto other = betas ? Prediction::velocity : Prediction::v;
    if (options.prediction == other) {
        throw Error(ErrorCode::invalid_argument,
                    "a flow's velocity does not go with betas, nor their v with a flow");
    }
    if (!(options.eta >= 0 && options.eta <= 1)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("eta {} makes no sense: choose 0 to 1", options.eta));
    }
}

}  // namespace

Schedule make_schedule(const SamplerOptions& options) {
    check_kinds(options);
    Schedule schedule;
    if (const auto* betas = std::get_if<Betas>(&options.noise)) {
        schedule = from_betas(options, *betas);
    } else if (const auto* sigmas = std::get_if<GivenSigmas>(&options.noise)) {
        schedule = given(options, *sigmas);
    } else if (const auto* timesteps = std::get_if<TableTimesteps>(&options.noise)) {
        schedule = from_table(*timesteps);
    } else if (const auto* times = std::get_if<RcmTimes>(&options.noise)) {
        schedule = on_the_circle(options, *times);
    } else {
        schedule = spread(options, std::get<FlowShift>(options.noise).shift);
    }
    schedule.sigmas.push_back(0);
    for (std::size_t i = schedule.signals.size(); i < schedule.sigmas.size(); ++i) {
        schedule.signals.push_back(1 - static_cast<double>(schedule.sigmas[i]));
    }
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
    signals_ = std::move(schedule.signals);
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
    data_prediction_.resize(sample.size());
    const double sigma = sigmas_[next_step_];
    // At sigma 1 nothing of the data is left to tell it by.
    const double signal = std::max(signals_[next_step_], 1 / kTrainTimesteps);
    for (std::size_t k = 0; k < sample.size(); ++k) {
        double& data = data_prediction_[k];
        switch (options_.prediction) {
            case Prediction::velocity:
                data = sample[k] - sigma * prediction[k];
                break;
            case Prediction::epsilon:
                data = (sample[k] - sigma * prediction[k]) / signal;
                break;
            case Prediction::v:
                data = signal * sample[k] - sigma * prediction[k];
                break;
        }
    }
    return next_step_++;
}

void Scheduler::draw(std::size_t step, std::span<float> out) const {
    if (options_.draw) {
        options_.draw(static_cast<int>(step), out);
    } else {
        fill_gaussian(options_.seed, out, static_cast<std::uint32_t>(step + 1));
    }
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
        case Sampler::dmd:  // the same rule at levels of its own
            return std::make_unique<LcmScheduler>(options);
        case Sampler::ddim:
            return std::make_unique<DdimScheduler>(options);
        case Sampler::rcm:
            return std::make_unique<RcmScheduler>(options);
    }
    throw Error(ErrorCode::invalid_argument, "unknown sampler", "sampler");
}

}  // namespace quantsparse::sampling
