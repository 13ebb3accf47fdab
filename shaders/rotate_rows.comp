// Rows times a block-diagonal matrix, the learned rotation of a quantised linear's input
// (method 2.4):
//
//   out[t, g b + j] = sum_i in[t, g b + i] * multiplier[g b + i] * R[g][i][j]
//
//   in          fp32 [M, in_stride], row-major
//   multiplier  fp32 [K], 1 / channel scale
//   R           halves [K / b, b, b], two a word; b a multiple of 4 that divides K
//   out         fp32 [M, out_stride], columns 0 .. K-1 are written
//
// One invocation computes kRows rows by 4 neighbouring columns, which lie in one block. R is read
// coalesced and once per kRows rows; rows of the input at addresses that are uniform over the lanes
// of a block. Group x: columns, group y: rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "loads.glsl"

layout(constant_id = 1) const uint kRows = 8;
layout(constant_id = 2) const uint kHasMultiplier = 0;

LOADABLE(in, 0)
LOADABLE(multiplier, 1)
LOADABLE_HALVES(rotation, 2)
layout(set = 0, binding = 3, std430) writeonly buffer Out { vec4 out_values[]; };

layout(push_constant) uniform Push {
    uint m;
    uint k4;          // K / 4
    uint b4;          // b / 4
    uint in_stride4;  // strides in vec4
    uint out_stride4;
} p;

void main() {
    const uint column4 = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (column4 >= p.k4) return;
    const uint row0 = gl_WorkGroupID.y * kRows;
    const uint block = column4 / p.b4;
    const uint first4 = block * p.b4;       // the block's first column / 4
    // Row i of the block's matrix, at this invocation's columns: i * b4 further on.
    const uint matrix = block * p.b4 * 4 * p.b4 + column4 - first4;

    vec4 sum[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) sum[r] = vec4(0.0);
    for (uint i4 = 0; i4 < p.b4; ++i4) {
        const vec4 scale = kHasMultiplier != 0 ? load_multiplier(first4 + i4) : vec4(1.0);
        const vec4 r0 = scale.x * load_rotation(matrix + (4 * i4 + 0) * p.b4);
        const vec4 r1 = scale.y * load_rotation(matrix + (4 * i4 + 1) * p.b4);
        const vec4 r2 = scale.z * load_rotation(matrix + (4 * i4 + 2) * p.b4);
        const vec4 r3 = scale.w * load_rotation(matrix + (4 * i4 + 3) * p.b4);
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const uint row = min(row0 + r, p.m - 1);  // rows past the end repeat the last, unwritten
            const vec4 x = load_in(row * p.in_stride4 + first4 + i4);
            sum[r] += x.x * r0 + x.y * r1 + x.z * r2 + x.w * r3;
        }
    }
    [[unroll]] for (uint r = 0; r < kRows; ++r) {
        if (row0 + r < p.m) out_values[(row0 + r) * p.out_stride4 + column4] = sum[r];
    }
}
