#include <fmt/format.h>

#include "quantsparse/error.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

void apply_guidance(std::span<float> cond, std::span<const float> uncond, float scale) {
    if (cond.size() != uncond.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("guidance: {} conditional and {} unconditional velocities must be "
                                "equally many",
                                cond.size(), uncond.size()));
    }
    for (std::size_t k = 0; k < cond.size(); ++k) {
        cond[k] = uncond[k] + scale * (cond[k] - uncond[k]);
    }
}

}  // namespace quantsparse::sampling
