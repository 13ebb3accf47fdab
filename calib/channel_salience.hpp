// PTQ4DiT's channel scale (arXiv 2405.16005): how large each input channel gets at the steps where
// activations and weights are large in different channels counts most (method 7.2).
#pragma once

#include <span>
#include <vector>

namespace quantsparse::calib {

/// Spearman's rank correlation, from -1 to 1; equal values share their ranks' mean. 0 where all
/// values of one side are equal.
double rank_correlation(std::span<const float> a, std::span<const float> b);

/// softmax over the observations of minus the rank correlation of each observation's maxima with
/// the weight's. `observations`: [count, channels], row-major.
std::vector<double> observation_weights(std::span<const float> observations,
                                        std::span<const float> weight_absmax);

/// Mean of the observations' maxima by those weights, [channels].
std::vector<float> salient_absmax(std::span<const float> observations,
                                  std::span<const float> weight_absmax);

}  // namespace quantsparse::calib
