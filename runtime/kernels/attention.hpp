// Dense flash attention over head-major operands.
#pragma once

#include "kernels/rows.hpp"

namespace quantsparse::kernels {

struct AttentionOptions {
    float scale = 1.0f;
    int keys = 0;  ///< keys beyond are masked; 0: all
    Tensor bias;   ///< fp32 [heads, 2 * bias_span - 1] by relative position key - query; optional
    int bias_span = 0;
};

/// out[t, h * head_dim + c], token-major. Any token count; head dimensions up to 512.
void attention_dense(Program& program, const std::string& name, const HeadMatrix& q,
                     const HeadMatrix& k, const HeadMatrix& v, const Matrix& out,
                     const AttentionOptions& options);

}  // namespace quantsparse::kernels
