// Quantise-then-dequantise that gradients pass through (method 2.1 and 2.5): rounding counts as
// the identity, so that dQ/dv = 1 inside the range, 0 outside, and dQ/ds = round(v/s) - v/s inside,
// the bound outside.
#pragma once

#include <ATen/ATen.h>

namespace quantsparse::calib {

/// Q(v) = s clip(round(v / s), lowest, highest), half to even; `scale` broadcasts against v.
at::Tensor straight_through_quantize(const at::Tensor& v, const at::Tensor& scale, double lowest,
                                     double highest);

/// Weights [n, k] with the scale gamma[j] max_i |w[j, i]| / qmax; gamma [n].
at::Tensor learnable_weight_quantize(const at::Tensor& weight, const at::Tensor& gamma, int bits);

/// Weights [n, k] clipped to [low_j min_i w_ji, high_j max_i w_ji], of rows that have either sign;
/// low, high [n].
at::Tensor clip_ends(const at::Tensor& weight, const at::Tensor& low, const at::Tensor& high);

/// Rows [m, k] with the dynamic scale clip * max_i |x[t, i]| / qmax; `clip` a scalar, undefined: 1.
at::Tensor learnable_row_quantize(const at::Tensor& rows, const at::Tensor& clip, int bits);

}  // namespace quantsparse::calib
