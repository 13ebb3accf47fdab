// Choosing samples by what they are rather than by where they stand: S2Q-VDiT's score and
// QuantVGGT's filter and clusters (method 7.2).
#pragma once

#include <cstddef>
#include <vector>

namespace quantsparse::calib {

/// The indices of the `count` largest scores, the largest first; of equal ones the earlier.
std::vector<std::size_t> highest(const std::vector<double>& scores, std::size_t count);

/// Whether each value lies within one and a half interquartile ranges of the quartiles.
std::vector<bool> inside_quartiles(const std::vector<double>& values);

/// k-means: a cluster, 0 .. clusters-1, for each vector. Repeats exactly: the first centre is the
/// vector nearest to the mean, each further one the vector farthest from those before it.
std::vector<int> cluster(const std::vector<std::vector<double>>& vectors, int clusters);

/// `count` indices, as many as can be of each cluster, spread over its members.
std::vector<std::size_t> from_each_cluster(const std::vector<int>& labels, std::size_t count);

}  // namespace quantsparse::calib
