#include "calib/channel_salience.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace quantsparse::calib {
namespace {

std::vector<double> ranks_of(std::span<const float> values) {
    std::vector<std::size_t> order(values.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
    std::vector<double> ranks(values.size());
    for (std::size_t first = 0; first < order.size();) {
        std::size_t end = first + 1;
        while (end < order.size() && values[order[end]] == values[order[first]]) {
            ++end;
        }
        for (std::size_t i = first; i < end; ++i) {
            ranks[order[i]] = static_cast<double>(first + end - 1) / 2;
        }
        first = end;
    }
    return ranks;
}

}  // namespace

double rank_correlation(std::span<const float> a, std::span<const float> b) {
    const auto ranks_a = ranks_of(a);
    const auto ranks_b = ranks_of(b);
    const double mean = (static_cast<double>(a.size()) - 1) / 2;
    double product = 0, power_a = 0, power_b = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        product += (ranks_a[i] - mean) * (ranks_b[i] - mean);
        power_a += (ranks_a[i] - mean) * (ranks_a[i] - mean);
        power_b += (ranks_b[i] - mean) * (ranks_b[i] - mean);
    }
    return power_a > 0 && power_b > 0 ? product / std::sqrt(power_a * power_b) : 0.0;
}

std::vector<double> observation_weights(std::span<const float> observations,
                                        std::span<const float> weight_absmax) {
    const auto channels = weight_absmax.size();
    std::vector<double> weights;
    double sum = 0;
    for (std::size_t start = 0; start < observations.size(); start += channels) {
        // Correlations lie between -1 and 1: nothing can overflow.
        weights.push_back(
            std::exp(-rank_correlation(observations.subspan(start, channels), weight_absmax)));
        sum += weights.back();
    }
    for (auto& weight : weights) {
        weight /= sum;
    }
    return weights;
}

std::vector<float> salient_absmax(std::span<const float> observations,
                                  std::span<const float> weight_absmax) {
    const auto channels = weight_absmax.size();
    const auto weights = observation_weights(observations, weight_absmax);
    std::vector<double> sums(channels, 0.0);
    for (std::size_t i = 0; i < observations.size(); ++i) {
        sums[i % channels] += weights[i / channels] * observations[i];
    }
    return {sums.begin(), sums.end()};
}

}  // namespace quantsparse::calib
