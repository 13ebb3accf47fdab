#include "models/wan_step_changes.hpp"

#include <cmath>

#include "models/wan_dit.hpp"

namespace quantsparse::models {
namespace {

struct HostLinear {
    std::vector<float> weight;  ///< [n, k]
    std::vector<float> bias;    ///< [n]

    HostLinear(const WeightSource& source, const std::string& name, int n, int k)
        : weight(load_values(source, name + ".weight", {n, k})),
          bias(load_values(source, name + ".bias", {n})) {}

    std::vector<float> operator()(std::span<const float> x) const {
        std::vector<float> y = bias;
        for (std::size_t i = 0; i < y.size(); ++i) {
            double sum = 0;
            for (std::size_t j = 0; j < x.size(); ++j) {
                sum += static_cast<double>(weight[i * x.size() + j]) * x[j];
            }
            y[i] += static_cast<float>(sum);
        }
        return y;
    }
};

/// Highest power first; fitted by TeaCache's authors (TeaCache4Wan2.1, without retention steps).
std::vector<double> polynomial_of(const format::WanDitConfig& config) {
    if (config.in_dim == 16 && config.dim == 1536 && config.num_layers == 30) {
        return {2.39676752e+03, -1.31110545e+03, 2.01331979e+02, -8.29855975e+00, 1.37887774e-01};
    }
    if (config.in_dim == 16 && config.dim == 5120 && config.num_layers == 40) {
        return {-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404};
    }
    return {1, 0};
}

}  // namespace

std::vector<double> wan_step_changes(const WeightSource& source, const format::Network& network,
                                     std::span<const float> timesteps) {
    const auto& config = network.config_as<format::WanDitConfig>();
    const std::vector<double> polynomial = polynomial_of(config);
    const HostLinear first(source, "time_embedding.0", config.dim, config.freq_dim);
    const HostLinear second(source, "time_embedding.2", config.dim, config.dim);
    std::vector<double> changes;
    std::vector<float> before;
    for (const float timestep : timesteps) {
        const auto sinusoid = time_sinusoid(config.freq_dim, timestep);
        std::vector<float> hidden =
            first(std::span(sinusoid).first(static_cast<std::size_t>(config.freq_dim)));
        for (float& x : hidden) x /= 1 + std::exp(-x);
        std::vector<float> embedding = second(hidden);
        double difference = 0, size = 0;
        for (std::size_t i = 0; i < before.size(); ++i) {
            difference += std::abs(static_cast<double>(embedding[i]) - before[i]);
            size += std::abs(static_cast<double>(before[i]));
        }
        double change = 0;
        if (!before.empty()) {
            for (const double coefficient : polynomial) {
                change = change * (difference / size) + coefficient;
            }
        }
        changes.push_back(change);
        before = std::move(embedding);
    }
    return changes;
}

}  // namespace quantsparse::models
