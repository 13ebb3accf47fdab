#include "clip_cost.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "format/model_file.hpp"

namespace quantsparse::bench {

StepCost fit_step_cost(double tokens_1, double seconds_1, double tokens_2, double seconds_2) {
    StepCost cost;
    cost.quadratic =
        std::max(0.0, (seconds_2 / tokens_2 - seconds_1 / tokens_1) / (tokens_2 - tokens_1));
    cost.linear = seconds_2 / tokens_2 - cost.quadratic * tokens_2;
    if (cost.linear < 0) {
        cost = {0, seconds_2 / (tokens_2 * tokens_2)};
    }
    return cost;
}

std::uint64_t transformer_bytes(const format::Network& network, int weight_bits) {
    const auto count = [](const std::vector<std::int64_t>& shape) {
        return static_cast<std::uint64_t>(
            std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
    };
    std::uint64_t bytes = 0;
    for (const format::TensorSpec& tensor : network.tensors) bytes += 2 * count(tensor.shape);
    if (weight_bits >= 16) return bytes;
    for (const format::NetworkBlock& block : network.blocks) {
        for (const format::LinearSpec& linear : linears_of(block)) {
            const auto n = static_cast<std::uint64_t>(linear.out_features);
            const auto k = static_cast<std::uint64_t>(linear.in_features);
            bytes -= 2 * n * k;
            bytes += 4 * count(format::codes_shape(linear.out_features, linear.in_features,
                                                   weight_bits));
            // scale, the bias as fp32, channel_scale, rotation_signs
            bytes += 4 * n + 2 * n + 8 * k;
        }
    }
    return bytes;
}

}  // namespace quantsparse::bench
