#include "pipeline/checks.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {

void require_finite(std::span<const float> values, const std::function<std::string()>& what) {
    for (const float value : values) {
        if (!std::isfinite(value)) {
            throw Error(
                ErrorCode::non_finite,
                fmt::format("{} holds NaN or infinity: the checkpoint is damaged or the driver "
                            "computes wrongly; try fp32 storage or another device",
                            what()));
        }
    }
}

void require_finite(std::span<const float> values, const char* what) {
    require_finite(values, [&] { return std::string(what); });
}

bool shows_anything(std::span<const std::uint8_t> rgb) {
    constexpr int kFlat = 3;
    for (std::size_t c = 0; c < 3; ++c) {
        int low = 255, high = 0;
        for (std::size_t i = c; i < rgb.size(); i += 3) {
            low = std::min<int>(low, rgb[i]);
            high = std::max<int>(high, rgb[i]);
        }
        if (high - low > kFlat) return true;
    }
    return false;
}

void refuse_flat_clip() {
    throw Error(
        ErrorCode::non_finite,
        "every frame of the result is one flat colour: the checkpoint is damaged, or the number of "
        "steps is too small; nothing was written");
}

}  // namespace quantsparse::pipeline
