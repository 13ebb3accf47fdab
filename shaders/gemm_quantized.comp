// out[m, n] = epilogue( s_x[m] * s_w[n] * sum_k xq[m, k] * wq[n, k] )       (integer sum, exact)
//
//   activations  int8 [M, x_stride4 * 4 words], 4 codes a word, from quantize_rows
//   row_sums     int32 [M]: sum_k xq[m, k]; takes the zero point of unsigned weight codes out
//   weights      words [K / codes_per_word, n_stride] (runtime/format/bit_packing.hpp):
//                3 bits unsigned (+4) in two planes, 4 bits unsigned (+8), 6 bits unsigned (+32) in two
//                planes, 8 bits signed
//   out          fp32 [M, out_stride]
//   lora_rows    with LORA: fp32 [M, rank]; their product with lora_up is added
//
// One invocation computes kRows rows by kFours fours of neighbouring columns, a work-group's width apart;
// activation words are read at uniform addresses, weights coalesced. CPU drivers, where these reads and
// taking codes out of words are much of the work, take two fours. Tiers (TIER_DOT or not) give identical accumulators: the portable one
// sums products in fp32, exact below 2^24, and moves them to integers every 1024 codes of K.
// kWriteAccumulators = 1 writes the integer sums instead (bit cast), for the tests.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef TIER_DOT
#extension GL_EXT_spirv_intrinsics : require
#endif
#include "constants.glsl"
#include "gemm_quantized.glsl"
#include "dot_codes.glsl"

#ifndef TIER_DOT
// Codes of K a pass of the outer loop covers: the largest chunk whose fp32 sums are exact,
// 128 * 127 * 1024 < 2^24.
const uint kChunk8 = 128;
#endif

struct Operands { OPERAND first[4]; OPERAND second[4]; };

/// Weight codes 8*k8 .. 8*k8+7 of the 4 columns: `first` holds the lower four, `second` the others.
void weight_operands(uint k8, uint column4, out Operands w) {
    uvec4 first, second;
    load_codes(k8, column4, first, second);
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        w.first[c] = operand(first[c]);
        w.second[c] = operand(second[c]);
    }
}

void main() {
    const uint first4 = gl_WorkGroupID.x * gl_WorkGroupSize.x * kFours + gl_LocalInvocationID.x;
    const uint row0 = gl_WorkGroupID.y * kRows;
    uint column4[kFours];
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        column4[f] = min(first4 + f * gl_WorkGroupSize.x, p.n4 - 1);  // past the end: the last four, unwritten
    }

    ivec4 total[kFours * kRows];
    [[unroll]] for (uint i = 0; i < kFours * kRows; ++i) total[i] = ivec4(0);

#ifdef TIER_DOT
#define SUM total
    const uint begin = 0;
    const uint end = p.k8;
#else
#define SUM sum
    for (uint begin = 0; begin < p.k8; begin += kChunk8) {
        const uint end = min(begin + kChunk8, p.k8);
        vec4 sum[kFours * kRows];
        [[unroll]] for (uint i = 0; i < kFours * kRows; ++i) sum[i] = vec4(0.0);
#endif
        for (uint k8 = begin; k8 < end; k8 += 2) {
            Operands w[kFours], w2[kFours];
            [[unroll]] for (uint f = 0; f < kFours; ++f) {
                weight_operands(k8, column4[f], w[f]);
                weight_operands(k8 + 1, column4[f], w2[f]);
            }
            [[unroll]] for (uint r = 0; r < kRows; ++r) {
                const uvec4 x = load_activations(min(row0 + r, p.m - 1) * p.x_stride4 + k8 / 2);
                const OPERAND x0 = operand(x.x), x1 = operand(x.y);
                const OPERAND x2 = operand(x.z), x3 = operand(x.w);
                [[unroll]] for (uint f = 0; f < kFours; ++f) {
                    const uint i = f * kRows + r;
                    [[unroll]] for (uint c = 0; c < 4; ++c) {
                        SUM[i][c] = accumulate(x0, w[f].first[c], SUM[i][c]);
                        SUM[i][c] = accumulate(x1, w[f].second[c], SUM[i][c]);
                        SUM[i][c] = accumulate(x2, w2[f].first[c], SUM[i][c]);
                        SUM[i][c] = accumulate(x3, w2[f].second[c], SUM[i][c]);
                    }
                }
            }
        }
#ifndef TIER_DOT
        [[unroll]] for (uint i = 0; i < kFours * kRows; ++i) total[i] += ivec4(sum[i]);
    }
#endif

#ifdef LORA
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            lora_outputs[f * kRows + r] = plain_product(total[f * kRows + r], min(row0 + r, p.m - 1), column4[f]);
        }
    }
    write_with_lora(row0, first4);
#else
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        const uint n4 = first4 + f * gl_WorkGroupSize.x;
        if (n4 < p.n4) {
            [[unroll]] for (uint r = 0; r < kRows; ++r) {
                const uint row = row0 + r;
                if (row < p.m) write_outputs(total[f * kRows + r], row, n4);
            }
        }
    }
#endif
}
