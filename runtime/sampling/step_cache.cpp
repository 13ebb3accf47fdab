#include "sampling/step_cache.hpp"

namespace quantsparse::sampling {

std::vector<bool> reused_steps(std::span<const double> changes, double threshold) {
    std::vector<bool> reused(changes.size(), false);
    double sum = 0;
    for (std::size_t i = 1; i + 1 < changes.size(); ++i) {
        sum += changes[i];
        reused[i] = sum < threshold;
        if (!reused[i]) sum = 0;
    }
    return reused;
}

}  // namespace quantsparse::sampling
