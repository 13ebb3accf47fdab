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

void require_picture(const Video& video) {
    const std::size_t frame = static_cast<std::size_t>(video.width * video.height) * 3;
    for (int f = 0; f < video.frames; ++f) {
        for (std::size_t c = 0; c < 3; ++c) {
            int low = 255, high = 0;
            for (std::size_t i = c; i < frame; i += 3) {
                const int value = video.rgb[static_cast<std::size_t>(f) * frame + i];
                low = std::min(low, value);
                high = std::max(high, value);
            }
            if (high - low > 3) return;
        }
    }
    throw Error(
        ErrorCode::non_finite,
        "every frame of the result is one flat colour: the checkpoint is damaged, or the number of "
        "steps is too small; nothing was written");
}

}  // namespace quantsparse::pipeline
