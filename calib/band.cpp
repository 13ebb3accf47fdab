#include "calib/band.hpp"

#include "attention/band.hpp"

namespace quantsparse::calib {

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
    mask.half_width = attention::band_width(static_cast<int>(tokens), static_cast<int>(places),
                                            density, MaskMode::exact);
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
