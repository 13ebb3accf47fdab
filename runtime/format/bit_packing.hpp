// Packed integers in 32-bit words, laid out as the integer GEMM reads them.
//
// A weight [N, K] becomes words [K_padded / codes_per_word, N_padded]: consecutive words belong to
// consecutive output channels, so neighbouring invocations read neighbouring words.
//   8 bits: signed bytes, 4 per word: byte b of word (k4, n) is code[n][4*k4 + b].
//   4 bits: unsigned (code + 8), 8 per word: (word & 0x0F0F0F0F) holds codes 8*k8 + 0..3 in its
//   bytes
//           0..3, ((word >> 4) & 0x0F0F0F0F) holds codes 8*k8 + 4..7.
//   3 bits: unsigned (code + 4): a plane of the two low bits [K_padded / 16, N_padded], laid out as
//           the high ones of 6 bits are, followed by a 1-bit plane [K_padded / 32, N_padded]:
//           ((word >> i) & 0x01010101) holds the high bits of codes 32*k32 + 4*i + 0..3, for
//           i = 0..7.
//   6 bits: unsigned (code + 32): a 4-bit plane of the low nibbles as above, followed by a 2-bit
//   plane
//           [K_padded / 16, N_padded]: ((word >> 2*i) & 0x03030303) holds the high bits of codes
//           16*k16 + 4*i + 0..3, for i = 0..3.
// K is padded to a multiple of 32 and N to a multiple of 4, with codes of value zero (that is 4, 8,
// 32 or 0 as stored). Activations are signed bytes, row-major: [M, K_padded / 4] words.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quantsparse::format {

inline constexpr int kPackedKAlignment = 32;
inline constexpr int kPackedNAlignment = 4;

constexpr int packed_k(int k) {
    return (k + 31) / 32 * 32;
}
constexpr int packed_n(int n) {
    return (n + 3) / 4 * 4;
}

/// Words of a packed weight [n, k] at 3, 4, 6 or 8 bits.
std::size_t packed_word_count(int n, int k, int bits);

/// Packs signed codes [n, k], row-major. Throws Error(invalid_argument) for a code out of range.
std::vector<std::uint32_t> pack_weight_codes(std::span<const std::int8_t> codes, int n, int k,
                                             int bits);

/// The inverse, for tests and tools.
std::vector<std::int8_t> unpack_weight_codes(std::span<const std::uint32_t> words, int n, int k,
                                             int bits);

/// Activation codes [m, k] to words [m, packed_k(k) / 4], and back.
std::vector<std::uint32_t> pack_activation_codes(std::span<const std::int8_t> codes, int m, int k);
std::vector<std::int8_t> unpack_activation_codes(std::span<const std::uint32_t> words, int m,
                                                 int k);

/// Symmetric quantisation of weights per output channel (method 2.1): scale = gamma * absmax /
/// qmax, codes round half to even, clipped to [-qmax-1, qmax]. An all-zero row gets scale 1 and
/// codes 0.
struct QuantizedWeight {
    std::vector<std::int8_t> codes;  ///< [n, k]
    std::vector<float> scale;        ///< [n]
};
QuantizedWeight quantize_weight(std::span<const float> weight, int n, int k, int bits,
                                std::span<const float> gamma = {});

/// The same for activations per row, dynamic: clipped to +-qmax; returns codes and scale per row.
QuantizedWeight quantize_rows(std::span<const float> rows, int m, int k, int bits);

}  // namespace quantsparse::format
