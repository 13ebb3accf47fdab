#include "calib/adamw.hpp"

#include <cmath>
#include <numbers>

namespace quantsparse::calib {
namespace {

constexpr double kBeta1 = 0.9;
constexpr double kBeta2 = 0.999;
constexpr double kEpsilon = 1e-8;

}  // namespace

AdamW::AdamW(std::vector<ParameterGroup> groups) : groups_(std::move(groups)) {
    for (const auto& group : groups_) {
        auto& moments = moments_.emplace_back();
        for (const auto& parameter : group.parameters) {
            moments.push_back({at::zeros_like(parameter), at::zeros_like(parameter)});
        }
    }
}

void AdamW::step(double factor) {
    const at::NoGradGuard no_gradients;
    ++steps_;
    const double correction1 = 1.0 - std::pow(kBeta1, steps_);
    const double correction2 = 1.0 - std::pow(kBeta2, steps_);
    for (std::size_t i = 0; i < groups_.size(); ++i) {
        for (std::size_t j = 0; j < groups_[i].parameters.size(); ++j) {
            auto& parameter = groups_[i].parameters[j];
            auto& gradient = parameter.mutable_grad();
            if (!gradient.defined()) {
                continue;
            }
            auto& [first, second] = moments_[i][j];
            first.mul_(kBeta1).add_(gradient, 1.0 - kBeta1);
            second.mul_(kBeta2).addcmul_(gradient, gradient, 1.0 - kBeta2);
            const auto size = (second / correction2).sqrt_().add_(kEpsilon);
            parameter.addcdiv_(first, size, -groups_[i].rate * factor / correction1);
            gradient.reset();
        }
    }
}

double cosine_factor(int step, int steps) {
    constexpr double kLast = 1e-3;
    const double progress = static_cast<double>(step) / std::max(1, steps - 1);
    return kLast + (1.0 - kLast) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
}

}  // namespace quantsparse::calib
