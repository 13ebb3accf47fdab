#include "sampling/ddim.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::sampling {

void DdimScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    const std::size_t i = begin_step(sample, prediction);
    const double signal = signals_[i], next = signals_[i + 1];
    const double sigma = std::sqrt(1 - signal * signal);
    // Deviation of the posterior, of which eta is drawn anew; the rest keeps its direction.
    const double variance =
        (1 - next * next) / (sigma * sigma) * (1 - signal * signal / (next * next));
    const double fresh = options_.eta * std::sqrt(std::max(variance, 0.0));
    const double kept = std::sqrt(std::max(1 - next * next - fresh * fresh, 0.0));
    std::vector<float> noise(options_.eta > 0 ? sample.size() : 0);
    if (!noise.empty()) {
        draw(i, noise);
    }
    for (std::size_t k = 0; k < sample.size(); ++k) {
        const double data = data_prediction_[k];
        const double epsilon = (sample[k] - signal * data) / sigma;
        double value = next * data + kept * epsilon;
        if (!noise.empty()) {
            value += fresh * noise[k];
        }
        sample[k] = static_cast<float>(value);
    }
}

}  // namespace quantsparse::sampling
