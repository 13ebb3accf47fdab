#include "sampling/unipc.hpp"

#include <algorithm>
#include <cmath>

#include "sampling/schedules.hpp"

namespace quantsparse::sampling {
namespace {

// r = (lambda_previous - lambda) / h, where the older data prediction lies relative to the step.
// Not finite, or 0, where noise levels meet at the ends of the scale: then there is no second
// point.
double relative_position(const Interval& interval, double sigma_previous) {
    const double r = (log_snr(sigma_previous) - interval.lambda) / interval.h;
    return std::isfinite(r) ? r : 0;
}

}  // namespace

// UniC over the interval that ends at `step`: what the predictor did there is redone with the data
// prediction made at its end (data_prediction_) as one more point.
void UnipcScheduler::correct(std::size_t step, std::span<const float> sample) {
    const Interval interval(sigmas_[step - 1], sigmas_[step]);
    if (interval.h == 0 || !std::isfinite(interval.h)) {
        // No room between the levels, or an infinite interval (sigma rounded to 1 by an extreme
        // shift), where the weights below have no limit: keep what the predictor made.
        std::copy(sample.begin(), sample.end(), corrected_.begin());
        return;
    }
    // Order 1 keeps c_new = 1/2; order 2 solves [1 1; r 1] (c_old, c_new) = (b1, b2).
    double c_new = 0.5;
    double old_factor = 0;  // c_old / r
    if (order_ == 2) {
        const double r = relative_position(interval, sigmas_[step - 2]);
        if (r != 0) {
            const double minus_h = -interval.h;
            const double b = std::expm1(minus_h);
            const double phi = b / minus_h - 1;
            const double b1 = phi / b;
            const double b2 = 2 * (phi / minus_h - 0.5) / b;
            const double c_old = (b1 - b2) / (1 - r);
            c_new = b1 - c_old;
            old_factor = c_old / r;
        }
    }
    for (std::size_t k = 0; k < corrected_.size(); ++k) {
        const double m0 = newest_[k];
        double prediction = m0 + c_new * (data_prediction_[k] - m0);
        if (old_factor != 0) {
            prediction += old_factor * (older_[k] - m0);
        }
        corrected_[k] = interval.ratio * corrected_[k] + interval.weight * prediction;
    }
}

void UnipcScheduler::step(std::span<float> sample, std::span<const float> prediction) {
    const std::size_t i = begin_step(sample, prediction);
    if (i == 0) {
        corrected_.assign(sample.begin(), sample.end());
    } else {
        correct(i, sample);
    }
    older_.swap(newest_);
    newest_ = data_prediction_;
    order_ = static_cast<int>(std::min<std::size_t>({2, timesteps_.size() - i, i + 1}));

    // UniP: weight 0.5 for the second point is part of the method (bh2).
    const Interval interval(sigmas_[i], sigmas_[i + 1]);
    double slope = 0;
    if (order_ == 2) {
        const double r = relative_position(interval, sigmas_[i - 1]);
        slope = r != 0 ? 0.5 / r : 0;
    }
    for (std::size_t k = 0; k < sample.size(); ++k) {
        double data = newest_[k];
        if (slope != 0) {
            data += slope * (older_[k] - newest_[k]);
        }
        sample[k] = static_cast<float>(interval.ratio * corrected_[k] + interval.weight * data);
    }
}

}  // namespace quantsparse::sampling
