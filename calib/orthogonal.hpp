// Learned block-diagonal rotations that stay orthogonal by construction (method 2.4): per block
// of b channels R = R0 (I - S)(I + S)^-1, S = T - T^t, with T learned from zero and R0 a Hadamard
// matrix with random signs.
#pragma once

#include <ATen/ATen.h>

#include <span>

namespace quantsparse::calib {

/// The block size in use for k channels: the largest power of two up to `wanted` that divides k.
int rotation_block(int k, int wanted);

/// diag(signs) H_b / sqrt(b) for each block of `signs` [k]: [k / b, b, b].
at::Tensor signed_hadamard(std::span<const float> signs, int b);

/// R0 (I - S)(I + S)^-1 for T [blocks, b, b].
at::Tensor cayley(const at::Tensor& start, const at::Tensor& t);

/// Rows [m, k] times the block-diagonal matrix of `rotation` [k / b, b, b]; undefined: unchanged.
at::Tensor rotate_rows(const at::Tensor& rows, const at::Tensor& rotation);

}  // namespace quantsparse::calib
