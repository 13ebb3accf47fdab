// softmax(q k^T / sqrt(d)) v on the CPU, dense or under a band mask, never holding more than a tile
// of query rows of the map: the backward pass computes the tiles again (method 3.7).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace quantsparse::calib {

/// Which pairs a sparse attention keeps: |position of i - position of j| <= half_width, or j among
/// the first `sink` positions. Each head has an order of its own, frame-major (spatial heads) or
/// place-major (temporal heads). Everything else is masked by adding -infinity (method 4.1).
struct BandMask {
    at::Tensor positions;  ///< int64 [heads, tokens]; undefined or empty: dense
    std::int64_t half_width = 0;
    std::int64_t sink = 0;
    bool dense() const { return !positions.defined() || positions.numel() == 0; }
};

/// For q, k, v [tokens, heads, d]; returns [tokens, heads * d]. Differentiable.
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const BandMask& mask = {});

/// Probabilities [heads, rows, keys] of some query rows q [rows, heads, d] over all keys
/// k [keys, heads, d]. `rows` (int64, the tokens they are) is needed with a mask only.
/// Differentiable; the map is held.
at::Tensor attention_rows(const at::Tensor& q, const at::Tensor& k, const BandMask& mask = {},
                          const at::Tensor& rows = {});

}  // namespace quantsparse::calib
