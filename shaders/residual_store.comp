// D = X + D_before, the residual of this refresh, into the history slot that the control buffer names.
//
//   x  fp32 [rows, stride]   from residual_difference.comp
//
// Stored as halves, or as integers with one scale per token and head, scale = max|D| / 127 (int8) or / 7
// (int4), round half to even; a head's row that isn't finite is stored as zeros. With storage low rank
// nothing is stored here: D replaces X, to be projected. One invocation per row and head.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) buffer X { float x_values[]; };

layout(push_constant) uniform Push {
    uint rows;
    uint stride;
    uint first_row;
} p;

#define RESIDUAL_CONSTANT 1
#define RESIDUAL_BINDING 1
#define RESIDUAL_ACCESS
#include "residual.glsl"

vec4 delta_at(uint row, uint head, uint d4) {
    vec4 y = residual_before(row, p.first_row + row, head, d4);
    for (uint c = 0; c < 4; ++c) {
        if (4 * d4 + c < kResidualDim) {
            y[c] += x_values[row * p.stride + head * kResidualDim + 4 * d4 + c];
        } else {
            y[c] = 0.0;
        }
    }
    return y;
}

uint codes(vec4 y, float inverse, float largest, uint bits) {
    const ivec4 q = ivec4(roundEven(clamp(y * inverse, vec4(-largest), vec4(largest))));
    uint word = 0;
    for (uint c = 0; c < 4; ++c) word = bitfieldInsert(word, uint(q[c]), int(c * bits), int(bits));
    return word;
}

void main() {
    const uint item = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (item >= p.rows * kResidualHeads) return;
    const uint row = item / kResidualHeads;
    const uint head = item % kResidualHeads;

    if (kResidual == kStoredLowRank) {
        for (uint d4 = 0; d4 < kHead4; ++d4) {
            const vec4 y = delta_at(row, head, d4);
            for (uint c = 0; c < 4 && 4 * d4 + c < kResidualDim; ++c) {
                x_values[row * p.stride + head * kResidualDim + 4 * d4 + c] = y[c];
            }
        }
        return;
    }

    float largest = 0.0;
    bool finite = true;
    for (uint d4 = 0; d4 < kHead4; ++d4) {
        const vec4 y = abs(delta_at(row, head, d4));
        finite = finite && all(lessThanEqual(y, vec4(3.0e38)));  // false for NaN too
        largest = max(largest, max(max(y.x, y.y), max(y.z, y.w)));
    }
    const uint base = (row * kSlots + residual_control.write_slot) * kSlotWords;
    const uint first = base + head * kHeadWords;
    if (kResidual == kStoredHalf) {
        for (uint d4 = 0; d4 < kHead4; ++d4) {
            const vec4 y = finite ? clamp(delta_at(row, head, d4), -65504.0, 65504.0) : vec4(0.0);
            residual_rows[first + 2 * d4] = packHalf2x16(y.xy);
            residual_rows[first + 2 * d4 + 1] = packHalf2x16(y.zw);
        }
        return;
    }
    const float top = kResidual == kStoredInt8 ? 127.0 : 7.0;
    const bool stored = finite && largest >= 1.0e-30;  // below, the scale's inverse would overflow
    const float scale = stored ? largest / top : 0.0;
    const float inverse = stored ? top / largest : 0.0;
    for (uint word = 0; word < kHeadWords; ++word) {
        uint packed = 0;
        if (stored) {
            if (kResidual == kStoredInt8) {
                packed = codes(delta_at(row, head, word), inverse, top, 8);
            } else {
                packed = codes(delta_at(row, head, 2 * word), inverse, top, 4);
                if (2 * word + 1 < kHead4) {
                    packed |= codes(delta_at(row, head, 2 * word + 1), inverse, top, 4) << 16;
                }
            }
        }
        residual_rows[first + word] = packed;
    }
    residual_rows[base + kResidualHeads * kHeadWords + head] = floatBitsToUint(scale);
}
