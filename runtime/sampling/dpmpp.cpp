#include "sampling/dpmpp.hpp"

#include <cmath>

#include "sampling/schedules.hpp"

namespace quantsparse::sampling {

void DpmppScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    previous_prediction_.swap(data_prediction_);
    const std::size_t i = begin_step(sample, prediction);
    const Interval interval(sigmas_[i], sigmas_[i + 1]);

    // First order at both ends. After sigma 1 the previous interval is infinitely long and the
    // correction vanishes by itself: h / inf = 0.
    double correction = 0;
    if (i > 0 && i + 1 < timesteps_.size()) {
        const double previous_h = interval.lambda - log_snr(sigmas_[i - 1]);
        const double slope = 0.5 * interval.h / previous_h;
        correction = std::isfinite(slope) ? slope : 0;
    }
    for (std::size_t k = 0; k < sample.size(); ++k) {
        double data = data_prediction_[k];
        if (correction != 0) {
            data += correction * (data - previous_prediction_[k]);
        }
        sample[k] = static_cast<float>(interval.ratio * sample[k] + interval.weight * data);
    }
}

}  // namespace quantsparse::sampling
