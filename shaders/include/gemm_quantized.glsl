// What both integer matrix products share (gemm_quantized.comp describes it): bindings, push constants, words of
// weight codes, and what becomes of the sums.
#ifndef QUANTSPARSE_GEMM_QUANTIZED_GLSL
#define QUANTSPARSE_GEMM_QUANTIZED_GLSL

#include "loads.glsl"

layout(constant_id = 1) const uint kRows = 8;
layout(constant_id = 2) const uint kWriteAccumulators = 0;
layout(constant_id = 3) const uint kFours = 1;

LOADABLE_WORDS(activations, 0)
LOADABLE_WORDS(weights, 1)
layout(set = 0, binding = 2, std430) writeonly buffer Out { vec4 out_values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { vec4 bias_values[]; };
layout(set = 0, binding = 4, std430) readonly buffer Factor { vec4 factor_values[]; };
layout(set = 0, binding = 5, std430) readonly buffer Residual { vec4 residual_values[]; };
layout(set = 0, binding = 6, std430) readonly buffer Gate { vec4 gate_values[]; };
layout(set = 0, binding = 7, std430) readonly buffer RowScale { float row_scales[]; };
layout(set = 0, binding = 8, std430) readonly buffer RowSum { int row_sums[]; };
layout(set = 0, binding = 9, std430) readonly buffer ColumnScale { vec4 column_scales[]; };

#ifdef LORA
LOADABLE(lora_rows, 10)  // fp32 [M, lora_stride4 * 4]: x * down^T of all linears that read the rows
LOADABLE(lora_up, 11)    // fp32 [rank, n4 * 4]
#include "gemm_quantized_lora_push.glsl"
#else
#include "gemm_quantized_push.glsl"
#endif

#include "epilogue.glsl"

/// Words with a code in each byte: codes 8*k8 .. 8*k8+3 and 8*k8+4 .. 8*k8+7 of four columns.
void load_codes(uint k8, uint column4, out uvec4 first, out uvec4 second) {
#if WEIGHT_BITS == 8
    first = load_weights((2 * k8) * p.n_stride4 + column4);
    second = load_weights((2 * k8 + 1) * p.n_stride4 + column4);
#elif WEIGHT_BITS == 3
    const uvec4 pairs = load_weights((k8 / 2) * p.n_stride4 + column4) >> (4 * (k8 & 1));
    const uvec4 singles =
        load_weights(p.high_plane4 + (k8 / 4) * p.n_stride4 + column4) >> (2 * (k8 & 3));
    first = (pairs & 0x03030303u) | (singles & 0x01010101u) << 2;
    second = ((pairs >> 2) & 0x03030303u) | ((singles >> 1) & 0x01010101u) << 2;
#else
    const uvec4 nibbles = load_weights(k8 * p.n_stride4 + column4);
    first = nibbles & 0x0F0F0F0Fu;
    second = (nibbles >> 4) & 0x0F0F0F0Fu;
#if WEIGHT_BITS == 6
    const uvec4 pairs =
        load_weights(p.high_plane4 + (k8 / 2) * p.n_stride4 + column4) >> (4 * (k8 & 1));
    first |= (pairs & 0x03030303u) << 4;
    second |= ((pairs >> 2) & 0x03030303u) << 4;
#endif
#endif
}

/// Writes the outputs of a row and four columns from their integer sums.
void write_outputs(ivec4 accumulator, uint row, uint n4) {
#if WEIGHT_BITS != 8
    accumulator -= (1 << (WEIGHT_BITS - 1)) * row_sums[row];
#endif
    if (kWriteAccumulators != 0) {
        out_values[row * p.out_stride4 + n4] = intBitsToFloat(accumulator);
    } else {
        const vec4 y = vec4(accumulator) * (row_scales[row] * column_scales[n4]);
        out_values[row * p.out_stride4 + n4] = epilogue(y, row, n4);
    }
}

#ifdef LORA
vec4 lora_outputs[kFours * kRows];  // of an invocation: the plain products, then with the low-rank ones

/// The plain product of a row and four columns from its integer sums.
vec4 plain_product(ivec4 accumulator, uint row, uint n4) {
#if WEIGHT_BITS != 8
    accumulator -= (1 << (WEIGHT_BITS - 1)) * row_sums[row];
#endif
    return vec4(accumulator) * (row_scales[row] * column_scales[n4]);
}

/// Adds the low-rank products where the plain ones enter the epilogue, and writes the invocation's outputs. A four of
/// `up` is loaded once for all rows.
void write_with_lora(uint row0, uint first4) {
    for (uint i = 0; i < p.rank4; ++i) {
        vec4 up[4 * kFours];
        [[unroll]] for (uint f = 0; f < kFours; ++f) {
            const uint column4 = min(first4 + f * gl_WorkGroupSize.x, p.n4 - 1);
            [[unroll]] for (uint j = 0; j < 4; ++j) up[4 * f + j] = load_lora_up((4 * i + j) * p.n4 + column4);
        }
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const vec4 t = load_lora_rows(min(row0 + r, p.m - 1) * p.lora_stride4 + p.lora_first4 + i);
            [[unroll]] for (uint f = 0; f < kFours; ++f) {
                lora_outputs[f * kRows + r] +=
                    t.x * up[4 * f] + t.y * up[4 * f + 1] + t.z * up[4 * f + 2] + t.w * up[4 * f + 3];
            }
        }
    }
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        const uint n4 = first4 + f * gl_WorkGroupSize.x;
        if (n4 < p.n4) {
            [[unroll]] for (uint r = 0; r < kRows; ++r) {
                const uint row = row0 + r;
                if (row < p.m) out_values[row * p.out_stride4 + n4] = epilogue(lora_outputs[f * kRows + r], row, n4);
            }
        }
    }
}
#endif

#endif
