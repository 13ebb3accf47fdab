#include "sampling/rcm.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "quantsparse/error.hpp"

namespace quantsparse::sampling {

std::vector<double> rcm_times(int steps, double sigma_max) {
    constexpr std::array kMiddle = {1.5, 1.4, 1.0};
    constexpr int kMost = static_cast<int>(kMiddle.size()) + 1;
    if (steps < 1 || steps > kMost) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("rcm can't make {} steps: choose 1 to {}", steps, kMost), "steps");
    }
    if (!(sigma_max > std::tan(kMiddle[0])) || !std::isfinite(sigma_max)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("sigma_max of rcm is {}: it must be above {:.4g}, usually 80",
                                sigma_max, std::tan(kMiddle[0])));
    }
    std::vector<double> times;
    for (int i = 0; i < steps; ++i) {
        const double u = i == 0 ? std::atan(sigma_max) : kMiddle[static_cast<std::size_t>(i - 1)];
        times.push_back(std::sin(u) / (std::cos(u) + std::sin(u)));
    }
    times.push_back(0);
    return times;
}

RcmScheduler::RcmScheduler(const SamplerOptions& options) : Scheduler(options) {
    const auto& noise = std::get<RcmTimes>(options.noise);
    times_ = rcm_times(options.steps, noise.sigma_max);
    fresh_noise_ = noise.fresh_noise;
}

void RcmScheduler::start(std::span<float> noise) {
    state_.assign(noise.begin(), noise.end());
    for (std::size_t k = 0; k < noise.size(); ++k) {
        state_[k] *= times_.front();
        noise[k] = static_cast<float>(state_[k]);
    }
}

void RcmScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    const std::size_t i = begin_step(sample, prediction);
    if (state_.size() != sample.size()) {  // the caller brought a latent of its own
        state_.assign(sample.begin(), sample.end());
    }
    const double now = times_[i], next = times_[i + 1];
    std::vector<float> noise(fresh_noise_ && next > 0 ? sample.size() : 0);
    if (!noise.empty()) {
        draw(i, noise);
    }
    for (std::size_t k = 0; k < sample.size(); ++k) {
        const double data = state_[k] - now * prediction[k];
        data_prediction_[k] = data;
        if (fresh_noise_) {
            state_[k] = (1 - next) * data + (noise.empty() ? 0 : next * noise[k]);
        } else {
            state_[k] -= (now - next) * prediction[k];
        }
        sample[k] = static_cast<float>(state_[k]);
    }
}

}  // namespace quantsparse::sampling
