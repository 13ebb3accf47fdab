// From attention's head-major result to token rows, where the kernel can't write those itself.
#pragma once

#include <string>

#include "kernels/residual.hpp"
#include "kernels/rows.hpp"

namespace quantsparse::kernels {

/// out[t, h * head_dim + c] = heads[h, position of t in the head's order, c] + the correction.
void merge_heads(Program& program, const std::string& name, const HeadMatrix& heads,
                 const Matrix& out, const TokenOrder& order, const Residual* residual);

}  // namespace quantsparse::kernels
