#include "attention/refresh_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quantsparse::attention {

const DriftCurve& usual_drift() {
    static constexpr DriftCurve kCurve = {
        0.0000f, 0.1771f, 0.2630f, 0.3403f, 0.3871f, 0.4367f, 0.4677f, 0.4940f, 0.5198f, 0.5424f,
        0.5614f, 0.5782f, 0.5958f, 0.6104f, 0.6241f, 0.6366f, 0.6504f, 0.6633f, 0.6738f, 0.6841f,
        0.6945f, 0.7030f, 0.7121f, 0.7224f, 0.7304f, 0.7405f, 0.7506f, 0.7585f, 0.7675f, 0.7754f,
        0.7818f, 0.7892f, 0.7964f, 0.8024f, 0.8090f, 0.8164f, 0.8230f, 0.8287f, 0.8347f, 0.8410f,
        0.8475f, 0.8544f, 0.8614f, 0.8690f, 0.8767f, 0.8866f, 0.8982f, 0.9098f, 0.9112f, 0.9112f};
    return kCurve;
}

double drift_at(const DriftCurve& curve, double sigma) {
    const double place = std::clamp((1 - sigma) * kDriftLevels, 0.0, kDriftLevels - 1.0);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min<std::size_t>(below + 1, kDriftLevels - 1);
    const double part = place - static_cast<double>(below);
    return (1 - part) * static_cast<double>(curve[below]) +
           part * static_cast<double>(curve[above]);
}

int usual_refreshes(int steps) {
    constexpr int kInterval = 5;
    const int fifth = (steps + kInterval - 1) / kInterval;
    return steps < 4 ? fifth : std::max(2, fifth);
}

std::vector<int> place_refreshes(std::span<const RefreshStep> steps, int count) {
    const int n = static_cast<int>(steps.size());
    count = std::min(count, n);
    if (count < 1) return {};
    const auto index = [n](int refreshes, int from) {
        return static_cast<std::size_t>(refreshes * (n + 1) + from);
    };
    // best[k, from]: of the steps from `from` on, a refresh itself, with k refreshes; and the next.
    constexpr double kNever = std::numeric_limits<double>::infinity();
    std::vector<double> best(index(count, n) + 1, kNever);
    std::vector<int> next(best.size(), n);
    best[index(0, n)] = 0;
    for (int k = 1; k <= count; ++k) {
        for (int from = n - k; from >= 0; --from) {
            const double reference = steps[static_cast<std::size_t>(from)].drift;
            double error = 0;  // of the steps from + 1 .. to - 1
            for (int to = from + 1; to <= n; ++to) {
                const double total = error + best[index(k - 1, to)];
                // Sums in another order may differ in the last bit: that is no difference.
                if (total < best[index(k, from)] * (1 - 1e-9)) {
                    best[index(k, from)] = total;
                    next[index(k, from)] = to;
                }
                if (to == n) break;
                const RefreshStep& step = steps[static_cast<std::size_t>(to)];
                error += step.weight * (step.drift - reference);
            }
        }
    }
    std::vector<int> refreshes;
    for (int k = count, step = 0; k > 0 && step < n; --k) {
        refreshes.push_back(step);
        step = next[index(k, step)];
    }
    return refreshes;
}

}  // namespace quantsparse::attention
