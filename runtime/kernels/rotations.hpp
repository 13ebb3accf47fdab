// Rotations of rows before they are rounded, passes of their own (quantize_rows.cpp).
#pragma once

#include <string>

#include "kernels/quantized_matmul.hpp"

namespace quantsparse::kernels {

/// Rows first .. first+count-1 of `input`, scaled and multiplied by learned matrices, into the
/// first rows of `out`.
void rotate_rows(Program& program, const std::string& name, const Matrix& input, int first,
                 int count, const InputTransform& transform, const Matrix& out);

/// The same for the Hadamard rotation. Returns the matrix that holds the result.
Matrix hadamard_rows(Program& program, const std::string& name, const Matrix& input, int first,
                     int count, const InputTransform& transform, const Matrix& out);

/// The most rows that one call of hadamard_rows may have, a multiple of 64.
std::uint64_t most_hadamard_rows(const Program& program, int columns, int rotation_block);

}  // namespace quantsparse::kernels
