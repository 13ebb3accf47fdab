// The rotation of ConvRot checkpoints: the regular Hadamard matrix R, and the same as a Sylvester
// one, which the kernels have (quantised-checkpoints fact 64).
#pragma once

#include <cstddef>
#include <span>

namespace quantsparse::format {

inline constexpr int kConvRotGroup = 256;  ///< columns where a file doesn't say

/// Whether `group` columns can be rotated: a power of 4 that divides k, at most 1024.
bool is_convrot_group(int group, int k);

/// Multiplies each group of consecutive columns by R in place; R is its own inverse.
void apply_convrot(std::span<float> row, int group);

// x R = ((x * sign) S permuted) * sign with Sylvester's S: signs go to the activations, and
// permutation and signs into the columns of the weight.

/// -1 where an odd number of the column's base-4 digits are 3.
inline int convrot_sign(std::size_t column) {
    return __builtin_parityll(column & column >> 1 & 0x5555555555555555u) != 0 ? -1 : 1;
}
/// Where a column's code goes: the two bits of each base-4 digit change places.
inline std::size_t convrot_place(std::size_t column) {
    return (column & 0x5555555555555555u) << 1 | (column >> 1 & 0x5555555555555555u);
}

}  // namespace quantsparse::format
