// The static sparse pattern during calibration (method 4.1 to 4.4): a band plus the first
// frame's columns, the same for all heads, each head in the token order that suits it better.
#pragma once

#include <array>
#include <cstdint>

#include "calib/attention.hpp"

namespace quantsparse::calib {

/// The mask for q, k, v [tokens, heads, d] of the floating-point model: per head spatial
/// (frame-major) or temporal (place-major) order, whichever leaves the output closer to the dense
/// one. `grid`: frames, rows, columns.
BandMask choose_band(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const std::array<std::int64_t, 3>& grid, double density);

}  // namespace quantsparse::calib
