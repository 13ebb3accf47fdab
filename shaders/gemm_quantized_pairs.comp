// The same as gemm_quantized.comp with two products a multiplication, for drivers where 32-bit integer
// multiplications are as fast as any other instruction (CPU drivers).
//
// The codes of two columns share a word, one in each half: its product with an activation holds the products with
// both. Sums of 16 fit the halves: 16 * 128 * 15 < 2^15 (8-bit activations by 4-bit weights), 16 * 31 * 63 < 2^15
// (6 by 6). They start from 2^15 so that the lower half never borrows from the upper one.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "gemm_quantized.glsl"

const int kNoBorrow = 0x8000;

/// Codes of K of two columns, `left` in the lower and `right` in the upper halves.
struct Pairs { int code[16]; };

void pair_codes(uint left, uint right, uint first, inout Pairs pairs) {
    const uint lower = (left & 0xFFFFu) | (right << 16), upper = (left >> 16) | (right & 0xFFFF0000u);
    pairs.code[first] = int(lower & 0x00FF00FFu);
    pairs.code[first + 1] = int((lower >> 8) & 0x00FF00FFu);
    pairs.code[first + 2] = int(upper & 0x00FF00FFu);
    pairs.code[first + 3] = int((upper >> 8) & 0x00FF00FFu);
}

void main() {
    const uint first4 = gl_WorkGroupID.x * gl_WorkGroupSize.x * kFours + gl_LocalInvocationID.x;
    const uint row0 = gl_WorkGroupID.y * kRows;
    uint column4[kFours];
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        column4[f] = min(first4 + f * gl_WorkGroupSize.x, p.n4 - 1);  // past the end: the last four, unwritten
    }

    // Of columns 0 and 1 (x, y), 2 and 3 (z, w): the words summed up, their upper halves summed up.
    ivec4 total[kFours * kRows];
    [[unroll]] for (uint i = 0; i < kFours * kRows; ++i) total[i] = ivec4(0);

    for (uint k16 = 0; k16 < p.k8 / 2; ++k16) {
        Pairs left[kFours], right[kFours];
        [[unroll]] for (uint f = 0; f < kFours; ++f) {
            [[unroll]] for (uint part = 0; part < 2; ++part) {
                uvec4 first, second;
                load_codes(2 * k16 + part, column4[f], first, second);
                pair_codes(first.x, first.y, 8 * part, left[f]);
                pair_codes(second.x, second.y, 8 * part + 4, left[f]);
                pair_codes(first.z, first.w, 8 * part, right[f]);
                pair_codes(second.z, second.w, 8 * part + 4, right[f]);
            }
        }
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const ivec4 words = ivec4(load_activations(min(row0 + r, p.m - 1) * p.x_stride4 + k16));
            int x[16];
            [[unroll]] for (uint k = 0; k < 16; ++k) x[k] = (words[k / 4] << (24 - 8 * (k % 4))) >> 24;
            [[unroll]] for (uint f = 0; f < kFours; ++f) {
                ivec2 sums = ivec2(kNoBorrow);
                [[unroll]] for (uint k = 0; k < 16; ++k) {
                    sums += x[k] * ivec2(left[f].code[k], right[f].code[k]);
                }
                total[f * kRows + r] += ivec4(sums.x, sums.x >> 16, sums.y, sums.y >> 16);
            }
        }
    }

    const int started_from = kNoBorrow * int(p.k8 / 2);
#ifdef LORA
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const ivec4 t = total[f * kRows + r];
            const ivec2 lower = t.xz - (t.yw << 16) - started_from;
            lora_outputs[f * kRows + r] =
                plain_product(ivec4(lower.x, t.y, lower.y, t.w), min(row0 + r, p.m - 1), column4[f]);
        }
    }
    write_with_lora(row0, first4);
#else
    [[unroll]] for (uint f = 0; f < kFours; ++f) {
        const uint n4 = first4 + f * gl_WorkGroupSize.x;
        if (n4 < p.n4) {
            [[unroll]] for (uint r = 0; r < kRows; ++r) {
                const ivec4 t = total[f * kRows + r];
                const ivec2 lower = t.xz - (t.yw << 16) - started_from;
                if (row0 + r < p.m) write_outputs(ivec4(lower.x, t.y, lower.y, t.w), row0 + r, n4);
            }
        }
    }
#endif
}
