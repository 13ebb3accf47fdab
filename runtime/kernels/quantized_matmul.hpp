// Integer matrix products: rows quantised on the fly, times packed weights of 3, 4, 6 or 8 bits.
#pragma once

#include "kernels/matmul.hpp"

namespace quantsparse::kernels {

inline constexpr int kKAlignment = 32;  ///< of packed codes, as format/bit_packing.hpp says

/// A quantised weight [n, k] as format/bit_packing.hpp lays it out.
struct QuantizedWeight {
    std::string name;
    int n = 0;
    int k = 0;
    int bits = 4;
    Tensor words;
    Tensor scale;  ///< fp32 [round_up(n, 4)]
    Tensor bias;   ///< fp32 [round_up(n, 4)], optional
};
QuantizedWeight add_quantized_weight(Program& program, const std::string& name, int n, int k,
                                     int bits, bool has_bias);

/// How the input of one or several linears is transformed before it is rounded.
struct InputTransform {
    Tensor multiplier;  ///< fp32 [k]: rotation sign / channel scale; optional
    /// Block of the rotation, which divides k; 0: none. A power of two for Hadamard, a multiple of
    /// 4 for a learned one.
    int rotation_block = 0;
    Tensor rotation;  ///< halves [k / block, block, block]: learned; invalid: Hadamard
    Tensor clip;      ///< fp32 [1]: factor on the scale of every row; optional
};

/// Quantised rows, ready for one or several products.
struct QuantizedRows {
    int rows = 0;
    int k = 0;
    int bits = 8;
    Tensor words;     ///< int8 [rows, packed_k / 4 words]
    Tensor scales;    ///< fp32 [rows]
    Tensor row_sums;  ///< int32 [rows]
};

/// codes and scale per row (quantize_rows.comp, after rotate_rows.comp for a learned rotation);
/// `bits` is 6 or 8.
QuantizedRows quantize_rows(Program& program, const std::string& name, const Matrix& input,
                            const InputTransform& transform, int bits);

/// out = epilogue(scales * scale * integer sum). `accumulators`: writes the integer sums instead,
/// for tests.
void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const Matrix& out, const Epilogue& epilogue = {},
            bool accumulators = false);

/// What a LoRA adds to a product of codes: columns first .. first + rank - 1 of `rows`, times `up`.
struct LoraProduct {
    Matrix rows;     ///< fp32 [m, ranks of all linears that read the same input]
    int first = 0;   ///< a multiple of 4
    int rank = 0;    ///< a multiple of 4; 0: nothing is added
    FloatWeight up;  ///< [n, rank], or with spread_up() [n, columns of `rows`]
};

/// Whether `up` must have a row for each column of `rows`, zeros beside the linear's own: products
/// on matrix units don't add it themselves, a product of floats does.
bool spread_up(const program::Limits& limits);

/// out = epilogue(product of codes + LoRA's); the epilogue has an activation or none of the rest.
void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const LoraProduct& lora, const Matrix& out,
            const Epilogue& epilogue);

}  // namespace quantsparse::kernels
