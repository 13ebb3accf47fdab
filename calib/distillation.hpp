// Multi-scale salient attention distillation (method 3.4 to 3.7): how far the attention map of
// the quantised block is from the floating-point one, seen coarsely everywhere (pooled) and exactly
// for the queries of the most attended tokens (salient). Neither needs the L x L map.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

namespace quantsparse::calib {

/// Means of `stride` consecutive tokens of x [tokens, heads, d] along the flattened order; the last
/// window may be shorter. [ceil(tokens / stride), heads, d].
at::Tensor pool_tokens(const at::Tensor& x, std::int64_t stride);

/// softmax(pool(q) pool(k)^T / sqrt(d)) [heads, L~, L~].
at::Tensor pooled_map(const at::Tensor& q, const at::Tensor& k, std::int64_t stride);

/// Attention every token receives: the column sums of the map over queries and heads [tokens], in
/// tiles of query rows.
at::Tensor received_attention(const at::Tensor& q, const at::Tensor& k);

/// The `count` most attended tokens, in ascending order (int64).
at::Tensor salient_tokens(const at::Tensor& received, std::int64_t count);

/// Squared error of probability maps [heads, rows, keys]: the sum over the keys, the mean over
/// heads and rows. (A plain mean would be about 1/keys^2 and vanish beside the output error.)
at::Tensor map_error(const at::Tensor& map, const at::Tensor& target);

/// Defaults that keep the paper's proportions at other lengths: about 128 pooled tokens, 1.5 % of
/// the queries (s = 128 and k = 256 at L = 17472).
std::int64_t default_stride(std::int64_t tokens);
std::int64_t default_salient(std::int64_t tokens);

}  // namespace quantsparse::calib
