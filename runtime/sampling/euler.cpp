#include "sampling/euler.hpp"

namespace quantsparse::sampling {

void EulerScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    const std::size_t i = begin_step(sample, prediction);
    const double change = static_cast<double>(sigmas_[i + 1]) - sigmas_[i];
    if (options_.prediction == Prediction::velocity) {
        for (std::size_t k = 0; k < sample.size(); ++k) {
            sample[k] = static_cast<float>(sample[k] + change * prediction[k]);
        }
    } else {
        for (std::size_t k = 0; k < sample.size(); ++k) {
            sample[k] =
                static_cast<float>(sample[k] + change * (prediction[k] - data_prediction_[k]));
        }
    }
}

}  // namespace quantsparse::sampling
