// How wide a band of the attention map is for a density. Arithmetic alone: the calibrator shares
// it.
#pragma once

#include <cstdint>

#include "quantsparse/attention.hpp"

namespace quantsparse::attention {

/// Half-width of the band for `density` of all pairs, where the first `sink` tokens are always
/// seen. `exact`: the width whose share of pairs comes closest; `svg`: that of SparseVideoGen for
/// Wan, which leaves the sink out of the count and rounds up to 128.
int band_width(int tokens, int sink, double density, MaskMode mode);

/// Pairs of a band and a sink, out of tokens^2.
std::uint64_t count_pairs(int tokens, int band, int sink);

}  // namespace quantsparse::attention
