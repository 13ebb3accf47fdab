#include "sampling/euler.hpp"

#include "sampling/schedules.hpp"

namespace quantsparse::sampling {

EulerScheduler::EulerScheduler(int steps, double shift) {
    Schedule schedule = make_schedule(SamplerKind::euler, steps, shift);
    sigmas_ = std::move(schedule.sigmas);
    timesteps_ = std::move(schedule.timesteps);
}

void EulerScheduler::step(std::span<float> sample, std::span<const float> velocity) {
    const std::size_t i = begin_step(sample, velocity);
    const double change = static_cast<double>(sigmas_[i + 1]) - sigmas_[i];
    for (std::size_t k = 0; k < sample.size(); ++k) {
        sample[k] = static_cast<float>(sample[k] + change * velocity[k]);
    }
}

}  // namespace quantsparse::sampling
