#include "sampling/lcm.hpp"

namespace quantsparse::sampling {

void LcmScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    const std::size_t i = begin_step(sample, prediction);
    const double next = sigmas_[i + 1];
    std::vector<float> noise(next > 0 ? sample.size() : 0);
    if (!noise.empty()) {
        draw(i, noise);
    }
    for (std::size_t k = 0; k < sample.size(); ++k) {
        const double fresh = noise.empty() ? 0 : next * noise[k];
        sample[k] = static_cast<float>((1 - next) * data_prediction_[k] + fresh);
    }
}

}  // namespace quantsparse::sampling
