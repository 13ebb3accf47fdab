// The linear branch of sparse-linear attention (SLA, arXiv 2509.24006), for checkpoints that were
// trained with it.
#pragma once

#include "kernels/matmul.hpp"
#include "kernels/rows.hpp"

namespace quantsparse::kernels {

/// out[tokens, heads * head_dim] += proj(f(q) (f(k)^T v) / (1e-5 + f(q) . sum of f(k))), f: softmax
/// over a head's columns (sla facts 88 and 90). `projection`: fp32, [head_dim, head_dim] with bias,
/// the same for all heads. q, k and v have their tokens in the order of `out`. Heads of up to 256
/// columns.
void add_linear_attention(Program& program, const std::string& name, const HeadMatrix& q,
                          const HeadMatrix& k, const HeadMatrix& v, const FloatWeight& projection,
                          const Matrix& out);

}  // namespace quantsparse::kernels
