// A product of two thin matrices beside a quantised linear: y = Q(x') Q(W')^T + x (B A)^T. The
// runtime runs it as it runs a LoRA (format/adapter_merge.hpp).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

namespace quantsparse::calib {

struct LowRankBranch {
    at::Tensor down;  ///< A, [rank, k]
    at::Tensor up;    ///< B, [n, rank]
    bool empty() const { return !down.defined() || down.size(0) == 0; }
};

/// Fourth moment over squared variance of each row of a weight [n, k]; 0 for a row of equal values.
std::vector<double> row_kurtosis(const at::Tensor& weight);

/// One bit for each element of some rows of an error [n, k]: the sign, times the row's mean
/// magnitude. Exact where all of a row's elements have one magnitude.
LowRankBranch sign_branch(const at::Tensor& error, const std::vector<std::int64_t>& rows);

/// The first terms of the singular value decomposition of an error [n, k], at most min(n, k).
LowRankBranch svd_branch(const at::Tensor& error, std::int64_t rank);

/// What MPQ-DMv2 puts beside codes: a sign_branch() of the `salient_share` of `weight`'s rows with
/// the highest kurtosis, and an svd_branch() of what `weight` - `quantized` then still is.
LowRankBranch residual_branch(const at::Tensor& weight, const at::Tensor& quantized,
                              double salient_share, std::int64_t rank);

}  // namespace quantsparse::calib
