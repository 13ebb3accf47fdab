#include "calib/sample_selection.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace quantsparse::calib {
namespace {

using Vectors = std::vector<std::vector<double>>;

double squared_distance(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    }
    return sum;
}

/// Of the vectors with that label, or of all with a negative one; empty where there are none.
std::vector<double> mean_of(const Vectors& vectors, const std::vector<int>& labels, int label) {
    std::vector<double> mean;
    double count = 0;
    for (std::size_t i = 0; i < vectors.size(); ++i) {
        if (label < 0 || labels[i] == label) {
            mean.resize(vectors[i].size());
            for (std::size_t d = 0; d < mean.size(); ++d) {
                mean[d] += vectors[i][d];
            }
            ++count;
        }
    }
    for (auto& value : mean) {
        value /= count;
    }
    return mean;
}

std::size_t nearest(const Vectors& centres, const std::vector<double>& vector) {
    std::size_t best = 0;
    for (std::size_t c = 1; c < centres.size(); ++c) {
        if (squared_distance(centres[c], vector) < squared_distance(centres[best], vector)) {
            best = c;
        }
    }
    return best;
}

Vectors first_centres(const Vectors& vectors, int clusters) {
    Vectors centres = {vectors[nearest(vectors, mean_of(vectors, {}, -1))]};
    while (std::ssize(centres) < clusters) {
        std::size_t farthest = 0;
        double most = -1;
        for (std::size_t i = 0; i < vectors.size(); ++i) {
            const double distance =
                squared_distance(centres[nearest(centres, vectors[i])], vectors[i]);
            if (distance > most) {
                most = distance;
                farthest = i;
            }
        }
        centres.push_back(vectors[farthest]);
    }
    return centres;
}

/// By linear interpolation between the sorted values, as numpy's percentile.
double quantile(const std::vector<double>& sorted, double share) {
    const double at = share * (static_cast<double>(sorted.size()) - 1);
    const auto below = static_cast<std::size_t>(at);
    const auto above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (at - std::floor(at)) * (sorted[above] - sorted[below]);
}

}  // namespace

std::vector<std::size_t> highest(const std::vector<double>& scores, std::size_t count) {
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
    order.resize(std::min(count, order.size()));
    return order;
}

std::vector<bool> inside_quartiles(const std::vector<double>& values) {
    constexpr double kRanges = 1.5;
    auto sorted = values;
    std::sort(sorted.begin(), sorted.end());
    std::vector<bool> inside(values.size(), true);
    if (sorted.empty()) {
        return inside;
    }
    const double low = quantile(sorted, 0.25), high = quantile(sorted, 0.75);
    const double reach = kRanges * (high - low);
    std::transform(values.begin(), values.end(), inside.begin(),
                   [&](double value) { return value >= low - reach && value <= high + reach; });
    return inside;
}

std::vector<int> cluster(const Vectors& vectors, int clusters) {
    constexpr int kMostRounds = 100;
    std::vector<int> labels(vectors.size(), 0);
    if (vectors.empty()) {
        return labels;
    }
    auto centres = first_centres(vectors, clusters);
    for (int round = 0; round < kMostRounds; ++round) {
        auto before = std::exchange(labels, {});
        for (const auto& vector : vectors) {
            labels.push_back(static_cast<int>(nearest(centres, vector)));
        }
        if (round > 0 && labels == before) {
            break;
        }
        for (int c = 0; c < clusters; ++c) {
            if (auto mean = mean_of(vectors, labels, c); !mean.empty()) {
                centres[static_cast<std::size_t>(c)] = std::move(mean);
            }
        }
    }
    return labels;
}

std::vector<std::size_t> from_each_cluster(const std::vector<int>& labels, std::size_t count) {
    std::vector<std::vector<std::size_t>> members;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        const auto label = static_cast<std::size_t>(labels[i]);
        members.resize(std::max(members.size(), label + 1));
        members[label].push_back(i);
    }
    // One more of each in turn, until there are enough or all are taken.
    std::vector<std::size_t> shares(members.size(), 0);
    for (std::size_t left = std::min(count, labels.size()); left > 0;) {
        for (std::size_t c = 0; c < members.size() && left > 0; ++c) {
            if (shares[c] < members[c].size()) {
                ++shares[c];
                --left;
            }
        }
    }
    std::vector<std::size_t> chosen;
    for (std::size_t c = 0; c < members.size(); ++c) {
        for (std::size_t i = 0; i < shares[c]; ++i) {
            chosen.push_back(members[c][(2 * i + 1) * members[c].size() / (2 * shares[c])]);
        }
    }
    std::sort(chosen.begin(), chosen.end());
    return chosen;
}

}  // namespace quantsparse::calib
