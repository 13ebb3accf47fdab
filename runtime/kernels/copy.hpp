// Strided copies and elementwise operations.
#pragma once

#include <array>

#include "kernels/rows.hpp"

namespace quantsparse::kernels {

/// out[out_offset + sum i_d * out_stride_d] = in[in_offset + sum i_d * in_stride_d], innermost
/// last, in floats. Innermost indices from `in_limit` on write zeros (0: no limit).
struct Permutation {
    std::array<int, 5> size = {1, 1, 1, 1, 1};
    std::array<int, 5> in_stride = {0, 0, 0, 0, 0};
    std::array<int, 5> out_stride = {0, 0, 0, 0, 0};
    int in_limit = 0;
    int in_offset = 0;
    int out_offset = 0;
};
void permute(Program& program, const std::string& name, Tensor input, Tensor out,
             const Permutation& p);

void add_repeated(Program& program, const std::string& name, Tensor a, Tensor b, Tensor out,
                  int count,
                  int b_count);  ///< out[i] = a[i] + b[i % b_count]
void apply_silu(Program& program, const std::string& name, Tensor a, Tensor out, int count);
/// In place; the padding stays zero.
void apply_gelu(Program& program, const std::string& name, const Matrix& m);
/// out[i] = a[i] * factor[c] + offset[c], c = (i / inner) % channels
void scale_channels(Program& program, const std::string& name, Tensor a, Tensor factor,
                    Tensor offset, Tensor out, int count, int channels, int inner);
void copy(Program& program, const std::string& name, Tensor a, Tensor out, int count,
          int a_offset = 0,
          int out_offset = 0);  ///< offsets in floats, multiples of 64

/// The same on whole matrices of equal shape and stride; `out` may be an operand.
void copy(Program& program, const std::string& name, const Matrix& a, const Matrix& out);
void add(Program& program, const std::string& name, const Matrix& a, const Matrix& b,
         const Matrix& out);
void subtract(Program& program, const std::string& name, const Matrix& a, const Matrix& b,
              const Matrix& out);  ///< a - b

/// Copies a tensor aside, densely, under `name` when the program keeps intermediates (tests);
/// otherwise does nothing.
void keep(Program& program, const std::string& name, Tensor tensor, int count);
/// Copies `count` words of any type into another tensor, for tests that look at transient results.
void keep_bits(Program& program, Tensor from, Tensor to, int count);
void keep(Program& program, const std::string& name, const Matrix& matrix);
void keep(Program& program, const std::string& name,
          const HeadMatrix& heads);  ///< as [tokens, heads, dim]

}  // namespace quantsparse::kernels
