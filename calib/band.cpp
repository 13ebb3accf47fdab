#include "calib/band.hpp"

#include <algorithm>

namespace quantsparse::calib {

double band_density(std::int64_t tokens, std::int64_t sink, std::int64_t half_width) {
    std::int64_t pairs = 0;
    for (std::int64_t i = 0; i < tokens; ++i) {
        const auto first = std::max<std::int64_t>(0, i - half_width);
        const auto last = std::min(tokens - 1, i + half_width);
        // The band, and what of the sink lies before and behind it.
        pairs +=
            last - first + 1 + std::min(sink, first) + std::max<std::int64_t>(0, sink - 1 - last);
    }
    return static_cast<double>(pairs) / (static_cast<double>(tokens) * static_cast<double>(tokens));
}

std::int64_t band_half_width(std::int64_t tokens, std::int64_t sink, double density) {
    std::int64_t low = 0;
    std::int64_t high = tokens - 1;
    while (low < high) {
        const auto middle = (low + high) / 2;
        if (band_density(tokens, sink, middle) >= density) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

BandMask choose_band(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::array<std::int64_t, 3>& grid, double density) {
    const auto frames = grid[0];
    const auto places = grid[1] * grid[2];
    const auto tokens = frames * places;
    const auto heads = q.size(1);
    const auto frame_major = at::arange(tokens, at::kLong);
    // Token f P + p stands at p F + f in place-major order.
    const auto place_major =
        at::arange(tokens, at::kLong).view({places, frames}).t().reshape({tokens});
    BandMask mask;
    mask.sink = places;
    mask.half_width = band_half_width(tokens, places, density);
    const auto error_of = [&](const at::Tensor& positions) {
        mask.positions = positions.unsqueeze(0).expand({heads, tokens});
        return (attention(q, k, v, mask) - attention(q, k, v))
            .view({tokens, heads, -1})
            .square()
            .mean(at::IntArrayRef({0, 2}));
    };
    const auto temporal = error_of(place_major).lt(error_of(frame_major));  // ties: spatial
    mask.positions =
        at::where(temporal.unsqueeze(1), place_major.unsqueeze(0), frame_major.unsqueeze(0));
    return mask;
}

}  // namespace quantsparse::calib
