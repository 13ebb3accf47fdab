// The channel scale c that moves size from activations to weights: y = (x / c) (W diag(c))^T
// (method 2.3).
#pragma once

#include <span>
#include <vector>

#include "calib/activations.hpp"
#include "calib/method.hpp"

namespace quantsparse::calib {

/// c_i = (max |x_i|)^alpha / (max_j |W_ji|)^(1 - alpha), geometric mean 1, |log c| <= 3.
std::vector<float> channel_scale(std::span<const float> activation_absmax,
                                 std::span<const float> weight_absmax, float alpha);

/// Largest |W_ji| of each input channel over the rows of all the weights.
std::vector<float> column_absmax(const std::vector<std::vector<float>>& weights, int k);

/// A group of linears with one input, and how it is to be quantised.
struct GroupProblem {
    const GroupActivations* activations = nullptr;
    const std::vector<std::vector<float>>* weights = nullptr;  ///< each [n_j, k]
    std::span<const float> signs;                              ///< empty: no rotation
    int weight_bits = 4;
    int activation_bits = 8;
    TransformOrder order = TransformOrder::scale_rotate;  ///< without signs it makes no difference
};

struct SmoothingChoice {
    std::vector<float> scale;  ///< c
    float alpha = -1;          ///< negative: c = 1
    double error = 0;          ///< mean squared output error over mean squared output
};

/// c for a given alpha, the one choose_smoothing() tries.
SmoothingChoice fixed_smoothing(const GroupProblem& problem, float alpha);

/// c of PTQ4DiT (channel_salience.hpp) with alpha 0.5, from the observations that were kept.
SmoothingChoice salient_smoothing(const GroupProblem& problem);

/// Tries c = 1 and alpha in {0, 0.1, ..., 0.7} on the kept rows with both sides quantised, and
/// takes the one with the least output error. At most kSearchChannels outputs of each linear take
/// part.
SmoothingChoice choose_smoothing(const GroupProblem& problem);

/// Rows divided by c and rotated, in the order asked for: what the runtime quantises.
std::vector<float> transform_rows(std::span<const float> rows, int k, std::span<const float> scale,
                                  std::span<const float> signs,
                                  TransformOrder order = TransformOrder::scale_rotate);
/// W diag(c), rotated, or (W R) diag(c): what is quantised and stored.
std::vector<float> transform_weight(std::span<const float> weight, int k,
                                    std::span<const float> scale, std::span<const float> signs,
                                    TransformOrder order = TransformOrder::scale_rotate);

/// Rows d [count, k] of the transformed basis in that of raw inputs: x' d^T = x (result)^T.
std::vector<float> directions_of_inputs(std::span<const float> rows, int k,
                                        std::span<const float> scale, std::span<const float> signs,
                                        TransformOrder order);

}  // namespace quantsparse::calib
