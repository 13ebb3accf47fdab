#include "calib/smoothing.hpp"

#include <algorithm>
#include <cmath>

#include "calib/channel_salience.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "format/model_file.hpp"

namespace quantsparse::calib {
namespace {

// Output channels of each linear that take part in the search: its cost must not grow with n.
constexpr int kSearchChannels = 512;
constexpr double kLargestLog = 3.0;
// A coarser clipping grid while alphas are compared; the final one is fine.
constexpr float kCoarseGrid[] = {0.6f, 0.7f, 0.8f, 0.9f, 1.0f};

/// Every stride-th row, so that all heads are represented.
std::vector<float> some_channels(const std::vector<float>& weight, int k, int* count) {
    const auto width = static_cast<std::size_t>(k);
    const std::size_t n = weight.size() / width;
    const std::size_t kept = std::min<std::size_t>(n, kSearchChannels);
    std::vector<float> result;
    result.reserve(kept * width);
    for (std::size_t i = 0; i < kept; ++i) {
        const float* row = weight.data() + i * n / kept * width;
        result.insert(result.end(), row, row + width);
    }
    *count = static_cast<int>(kept);
    return result;
}

struct Maxima {
    std::vector<float> activations, weights;  ///< per channel of the basis that c is in
};

/// Rotated first, the maxima are those of the rows that were kept: of all others only the maxima in
/// the basis before are known.
Maxima maxima_of(const GroupProblem& problem) {
    const auto& activations = *problem.activations;
    const int k = activations.width;
    if (problem.order == TransformOrder::scale_rotate || problem.signs.empty()) {
        return {activations.absmax, column_absmax(*problem.weights, k)};
    }
    const std::vector<float> ones(static_cast<std::size_t>(k), 1.0f);
    std::vector<std::vector<float>> rotated;
    for (const auto& weight : *problem.weights) {
        rotated.push_back(transform_weight(weight, k, ones, problem.signs));
    }
    return {column_absmax({transform_rows(activations.rows, k, ones, problem.signs)}, k),
            column_absmax(rotated, k)};
}

}  // namespace

std::vector<float> channel_scale(std::span<const float> activation_absmax,
                                 std::span<const float> weight_absmax, float alpha) {
    const std::size_t width = activation_absmax.size();
    // Channels that are (almost) always zero must not get an extreme scale.
    const auto floor_of = [](std::span<const float> values) {
        const float largest = *std::max_element(values.begin(), values.end());
        return std::max(largest * 1e-5f, 1e-20f);
    };
    const float least_x = floor_of(activation_absmax);
    const float least_w = floor_of(weight_absmax);
    std::vector<double> logs(width);
    double mean = 0;
    for (std::size_t i = 0; i < width; ++i) {
        logs[i] = alpha * std::log(std::max(activation_absmax[i], least_x)) -
                  (1.0 - alpha) * std::log(std::max(weight_absmax[i], least_w));
        mean += logs[i] / static_cast<double>(width);
    }
    std::vector<float> scale(width);
    for (std::size_t i = 0; i < width; ++i) {
        scale[i] =
            static_cast<float>(std::exp(std::clamp(logs[i] - mean, -kLargestLog, kLargestLog)));
    }
    return scale;
}

std::vector<float> column_absmax(const std::vector<std::vector<float>>& weights, int k) {
    const auto width = static_cast<std::size_t>(k);
    std::vector<float> largest(width, 0.0f);
    for (const auto& weight : weights) {
        for (std::size_t start = 0; start < weight.size(); start += width) {
            for (std::size_t i = 0; i < width; ++i) {
                largest[i] = std::max(largest[i], std::fabs(weight[start + i]));
            }
        }
    }
    return largest;
}

std::vector<float> transform_rows(std::span<const float> rows, int k, std::span<const float> scale,
                                  std::span<const float> signs, TransformOrder order) {
    std::vector<float> inverse(scale.size());
    std::transform(scale.begin(), scale.end(), inverse.begin(), [](float c) { return 1.0f / c; });
    return transform_weight(rows, k, inverse, signs, order);
}

std::vector<float> transform_weight(std::span<const float> weight, int k,
                                    std::span<const float> scale, std::span<const float> signs,
                                    TransformOrder order) {
    const auto width = static_cast<std::size_t>(k);
    std::vector<float> result(weight.begin(), weight.end());
    const auto multiply = [&] {
        for (std::size_t start = 0; start < result.size(); start += width) {
            for (std::size_t i = 0; i < width; ++i) {
                result[start + i] *= scale[i];
            }
        }
    };
    if (order == TransformOrder::scale_rotate) {
        multiply();
    }
    if (!signs.empty()) {
        format::apply_hadamard(result, k, signs);
    }
    if (order == TransformOrder::rotate_scale) {
        multiply();
    }
    return result;
}

std::vector<float> directions_of_inputs(std::span<const float> rows, int k,
                                        std::span<const float> scale, std::span<const float> signs,
                                        TransformOrder order) {
    // The transpose: its factors from behind. Hadamard's matrix is symmetric.
    const auto width = static_cast<std::size_t>(k);
    std::vector<float> result(rows.begin(), rows.end());
    const auto divide = [&] {
        for (std::size_t i = 0; i < result.size(); ++i) {
            result[i] /= scale[i % width];
        }
    };
    if (order == TransformOrder::rotate_scale) {
        divide();
    }
    if (!signs.empty()) {
        format::apply_hadamard(result, k);
        for (std::size_t i = 0; i < result.size(); ++i) {
            result[i] *= signs[i % width];
        }
    }
    if (order == TransformOrder::scale_rotate) {
        divide();
    }
    return result;
}

SmoothingChoice fixed_smoothing(const GroupProblem& problem, float alpha) {
    const auto maxima = maxima_of(problem);
    return {channel_scale(maxima.activations, maxima.weights, alpha), alpha, 0};
}

SmoothingChoice salient_smoothing(const GroupProblem& problem) {
    constexpr float kAlpha = 0.5f;
    const auto& activations = *problem.activations;
    const auto weight_maxima = column_absmax(*problem.weights, activations.width);
    return {channel_scale(salient_absmax(activations.observations, weight_maxima), weight_maxima,
                          kAlpha),
            kAlpha, 0};
}

SmoothingChoice choose_smoothing(const GroupProblem& problem) {
    const auto& activations = *problem.activations;
    const int k = activations.width;
    SmoothingChoice best;
    best.scale.assign(static_cast<std::size_t>(k), 1.0f);
    std::vector<std::vector<float>> weights;
    std::vector<int> channels;
    std::vector<std::vector<float>> targets;
    double power = 0;
    const int rows = activations.row_count();
    for (const auto& weight : *problem.weights) {
        int count = 0;
        weights.push_back(some_channels(weight, k, &count));
        channels.push_back(count);
        targets.push_back(multiply_transposed(activations.rows, weights.back(), rows, count, k));
        for (const float value : targets.back()) {
            power += static_cast<double>(value) * value;
        }
    }
    const auto maxima = maxima_of(problem);
    const auto error_of = [&](const std::vector<float>& scale) {
        const auto x = fake_quantize_rows(
            transform_rows(activations.rows, k, scale, problem.signs, problem.order), rows, k,
            problem.activation_bits);
        double error = 0;
        for (std::size_t i = 0; i < weights.size(); ++i) {
            const auto w = transform_weight(weights[i], k, scale, problem.signs, problem.order);
            const auto fine = clip_grid(problem.weight_bits);
            const auto grid = fine.size() == 1 ? std::span<const float>(fine)
                                               : std::span<const float>(kCoarseGrid);
            const auto gamma = search_clipping(w, channels[i], k, problem.weight_bits, grid);
            const auto quantized =
                fake_quantize_weight(w, channels[i], k, problem.weight_bits, gamma);
            const auto y = multiply_transposed(x, quantized, rows, channels[i], k);
            for (std::size_t j = 0; j < y.size(); ++j) {
                const double difference = static_cast<double>(y[j]) - targets[i][j];
                error += difference * difference;
            }
        }
        return power > 0 ? error / power : 0.0;
    };
    best.error = error_of(best.scale);
    for (int tenths = 0; tenths <= 7; ++tenths) {
        check_cancelled();
        const float alpha = static_cast<float>(tenths) / 10.0f;
        auto scale = channel_scale(maxima.activations, maxima.weights, alpha);
        const double error = error_of(scale);
        if (error < best.error) {
            best = {std::move(scale), alpha, error};
        }
    }
    return best;
}

}  // namespace quantsparse::calib
