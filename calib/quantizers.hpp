// Quantise-then-dequantise and the search for the clipping that loses least (method 2.1, 2.2).
#pragma once

#include <span>
#include <vector>

#include "format/bit_packing.hpp"

namespace quantsparse::calib {

/// |value| < 2^22 rounded half to even. Adding and taking off 1.5 * 2^23 does it in vector
/// registers of any CPU; std::nearbyint is a call per element without SSE4.1.
inline float half_to_even(float value) {
    constexpr float kRounder = 12582912.0f;
    return (value + kRounder) - kRounder;
}

/// gamma in {0.50, 0.52, ..., 1.00} at 4 and 6 bits; at 8 bits the maximum fits, {1}.
std::vector<float> clip_grid(int bits);

/// Per output channel the gamma of the grid with the least ||w - Q(w)||^2.
std::vector<float> search_clipping(std::span<const float> weight, int n, int k, int bits,
                                   std::span<const float> grid);

/// The values that codes [n, k] stand for.
std::vector<float> dequantize(const format::QuantizedWeight& quantized, int k);

/// Q(w) with codes and scales as format::quantize_weight makes them.
std::vector<float> fake_quantize_weight(std::span<const float> weight, int n, int k, int bits,
                                        std::span<const float> gamma);

/// Q(x) per row with dynamic scales, as format::quantize_rows makes them.
std::vector<float> fake_quantize_rows(std::span<const float> rows, int m, int k, int bits);

/// Mean over the rows of target - output, both [rows, n]: what quantising shifts each output
/// channel by on average, to be added to the bias. Inputs with a mean (after GELU, after
/// modulation) make the rounding errors of a row of weights add up; measured on the bundled model
/// at W4A8 the correction is worth 1 to 1.7 dB in the ffn and 0.1 to 0.7 dB in the attention, on
/// rows it was not taken from.
std::vector<float> mean_shift(std::span<const float> target, std::span<const float> output, int n);

/// 10 log10(|signal|^2 / |signal - approximation|^2), at most 200 (equal).
double signal_to_noise_db(std::span<const float> signal, std::span<const float> approximation);

}  // namespace quantsparse::calib
