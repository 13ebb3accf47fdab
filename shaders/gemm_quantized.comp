// out[m, n] = epilogue( s_x[m] * s_w[n] * sum_k xq[m, k] * wq[n, k] )       (integer sum, exact)
//
//   activations  int8 [M, x_stride4 * 4 words], 4 codes a word, from quantize_rows
//   row_sums     int32 [M]: sum_k xq[m, k]; takes the zero point of unsigned weight codes out
//   weights      words [K / codes_per_word, n_stride] (runtime/format/bit_packing.hpp):
//                4 bits unsigned (+8), 6 bits unsigned (+32) in two planes, 8 bits signed
//   out          fp32 [M, out_stride]
//
// One invocation computes kRows rows by 4 neighbouring columns; activation words are read at uniform
// addresses, weights coalesced. Tiers (TIER_DOT or not) give identical accumulators: the portable one
// sums products in fp32, exact below 2^24, and moves them to integers every 1024 codes of K.
// kWriteAccumulators = 1 writes the integer sums instead (bit cast), for the tests.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef TIER_DOT
#extension GL_EXT_spirv_intrinsics : require
#endif
#include "constants.glsl"

layout(constant_id = 1) const uint kRows = 8;
layout(constant_id = 2) const uint kWriteAccumulators = 0;

#ifdef TEXELS  // variants for drivers that read texel buffers faster: Quirks::texel_reads_are_faster
layout(set = 0, binding = 0) uniform usamplerBuffer activations;
layout(set = 0, binding = 1) uniform usamplerBuffer weights;
#define ACTIVATIONS(i) texelFetch(activations, int(i))
#define WEIGHTS(i) texelFetch(weights, int(i))
#else
layout(set = 0, binding = 0, std430) readonly buffer Activations { uvec4 activations[]; };
layout(set = 0, binding = 1, std430) readonly buffer Weights { uvec4 weights[]; };
#define ACTIVATIONS(i) activations[i]
#define WEIGHTS(i) weights[i]
#endif
layout(set = 0, binding = 2, std430) writeonly buffer Out { vec4 out_values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { vec4 bias_values[]; };
layout(set = 0, binding = 4, std430) readonly buffer Factor { vec4 factor_values[]; };
layout(set = 0, binding = 5, std430) readonly buffer Residual { vec4 residual_values[]; };
layout(set = 0, binding = 6, std430) readonly buffer Gate { vec4 gate_values[]; };
layout(set = 0, binding = 7, std430) readonly buffer RowScale { float row_scales[]; };
layout(set = 0, binding = 8, std430) readonly buffer RowSum { int row_sums[]; };
layout(set = 0, binding = 9, std430) readonly buffer ColumnScale { vec4 column_scales[]; };

layout(push_constant) uniform Push {
    uint m;
    uint k8;          // padded K / 8, a multiple of 4
    uint n4;          // ceil(N / 4)
    uint x_stride4;   // words of a row of activations / 4
    uint n_stride4;   // words of a row of weights / 4
    uint out_stride4;
    uint factor_stride4;
    uint residual_stride4;
    uint gate_offset4;
    uint high_plane4; // 6 bits: where the 2-bit plane begins, in uvec4
} p;

#include "epilogue.glsl"

#ifdef TIER_DOT
// OpSDot on packed 4x8-bit operands: DotProductKHR (6019), DotProductInput4x8BitPackedKHR (6018).
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int dot_packed_signed(uint a, uint b, spirv_literal int packed_format);
#define OPERAND uint
#define ACCUMULATOR int
OPERAND operand(uint packed_bytes) { return packed_bytes; }
ACCUMULATOR accumulate(OPERAND a, OPERAND b, ACCUMULATOR sum) {
    return sum + dot_packed_signed(a, b, 0);
}
#else
#define OPERAND vec4
#define ACCUMULATOR float
OPERAND operand(uint packed_bytes) {
    const ivec4 shifted = ivec4(packed_bytes << 24, packed_bytes << 16, packed_bytes << 8, packed_bytes);
    return vec4(shifted >> 24);
}
ACCUMULATOR accumulate(OPERAND a, OPERAND b, ACCUMULATOR sum) {
    // Four fused or separate operations give the same: every partial sum is an exact integer.
    return sum + (a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w);
}
#endif

#ifndef TIER_DOT
// Codes of K a pass of the outer loop covers: the largest chunk whose fp32 sums are exact,
// 128 * 127 * 1024 < 2^24.
const uint kChunk8 = 128;
#endif

struct Operands { OPERAND first[4]; OPERAND second[4]; };

/// Weight codes 8*k8 .. 8*k8+7 of the 4 columns: `first` holds the lower four, `second` the others.
void load_weights(uint k8, uint column4, out Operands w) {
#if WEIGHT_BITS == 8
    const uvec4 low = WEIGHTS((2 * k8) * p.n_stride4 + column4);
    const uvec4 high = WEIGHTS((2 * k8 + 1) * p.n_stride4 + column4);
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        w.first[c] = operand(low[c]);
        w.second[c] = operand(high[c]);
    }
#else
    const uvec4 nibbles = WEIGHTS(k8 * p.n_stride4 + column4);
    uvec4 low = nibbles & 0x0F0F0F0Fu;
    uvec4 high = (nibbles >> 4) & 0x0F0F0F0Fu;
#if WEIGHT_BITS == 6
    const uvec4 pairs =
        WEIGHTS(p.high_plane4 + (k8 / 2) * p.n_stride4 + column4) >> (4 * (k8 & 1));
    low |= (pairs & 0x03030303u) << 4;
    high |= ((pairs >> 2) & 0x03030303u) << 4;
#endif
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        w.first[c] = operand(low[c]);
        w.second[c] = operand(high[c]);
    }
#endif
}

void main() {
    const uint n4 = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    const uint row0 = gl_WorkGroupID.y * kRows;
    const uint column4 = min(n4, p.n4 - 1);

    ivec4 total[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) total[r] = ivec4(0);

#ifdef TIER_DOT
#define SUM total
    const uint begin = 0;
    const uint end = p.k8;
#else
#define SUM sum
    for (uint begin = 0; begin < p.k8; begin += kChunk8) {
        const uint end = min(begin + kChunk8, p.k8);
        ACCUMULATOR sum[kRows][4];
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            [[unroll]] for (uint c = 0; c < 4; ++c) sum[r][c] = ACCUMULATOR(0);
        }
#endif
        for (uint k8 = begin; k8 < end; k8 += 2) {
            Operands w, w2;
            load_weights(k8, column4, w);
            load_weights(k8 + 1, column4, w2);
            [[unroll]] for (uint r = 0; r < kRows; ++r) {
                const uvec4 x = ACTIVATIONS(min(row0 + r, p.m - 1) * p.x_stride4 + k8 / 2);
                const OPERAND x0 = operand(x.x), x1 = operand(x.y);
                const OPERAND x2 = operand(x.z), x3 = operand(x.w);
                [[unroll]] for (uint c = 0; c < 4; ++c) {
                    SUM[r][c] = accumulate(x0, w.first[c], SUM[r][c]);
                    SUM[r][c] = accumulate(x1, w.second[c], SUM[r][c]);
                    SUM[r][c] = accumulate(x2, w2.first[c], SUM[r][c]);
                    SUM[r][c] = accumulate(x3, w2.second[c], SUM[r][c]);
                }
            }
        }
#ifndef TIER_DOT
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            total[r] += ivec4(int(sum[r][0]), int(sum[r][1]), int(sum[r][2]), int(sum[r][3]));
        }
    }
#endif

    if (n4 >= p.n4) return;
    [[unroll]] for (uint r = 0; r < kRows; ++r) {
        const uint row = row0 + r;
        if (row < p.m) {
            ivec4 accumulator = total[r];
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
    }
}
