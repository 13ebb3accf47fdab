// What a refresh learns: X = full - sparse - D_before, in place of `sparse`, and its size.
//
//   full      fp32 [rows, stride]   attention over all keys
//   sparse    fp32 [rows, stride]   attention over the mask; becomes X
//   partials  fp32 [groups, 4]      sums of squares: D = full - sparse and X over the heads that have a
//                                   reference, D over all heads, unused
//
// D_before is what was added until now, quantised as it was, so that its error is corrected too; a head
// without a reference has D_before = 0 and X = D. One work-group per kRows rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 7) const uint kRows = 8;

layout(set = 0, binding = 0, std430) readonly buffer Full { float full_values[]; };
layout(set = 0, binding = 1, std430) buffer Sparse { float sparse_values[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Partials { vec4 partials[]; };

layout(push_constant) uniform Push {
    uint rows;         // of this dispatch
    uint stride;
    uint first_row;
    uint first_group;  // of `partials`
} p;

#define RESIDUAL_CONSTANT 1
#define RESIDUAL_BINDING 3
#include "residual.glsl"
#include "reduce.glsl"

void main() {
    const uint items = kResidualHeads * kHead4;
    vec3 squares = vec3(0.0);
    for (uint r = 0; r < kRows; ++r) {
        const uint row = gl_WorkGroupID.x * kRows + r;
        if (row >= p.rows) break;
        for (uint item = gl_LocalInvocationID.x; item < items; item += gl_WorkGroupSize.x) {
            const uint head = item / kHead4;
            const uint d4 = item % kHead4;
            const bool known = residual_heads[kResidualHeads + head] != 0;
            const vec4 before = residual_before(row, p.first_row + row, head, d4);
            for (uint c = 0; c < 4 && 4 * d4 + c < kResidualDim; ++c) {
                const uint i = row * p.stride + head * kResidualDim + 4 * d4 + c;
                const float delta = full_values[i] - sparse_values[i];
                const float x = delta - before[c];
                sparse_values[i] = x;
                squares.z += delta * delta;
                if (known) squares.xy += vec2(delta * delta, x * x);
            }
        }
    }
    const float delta_known = workgroup_sum(squares.x);
    const float difference = workgroup_sum(squares.y);
    const float delta_all = workgroup_sum(squares.z);
    if (gl_LocalInvocationID.x == 0) {
        partials[p.first_group + gl_WorkGroupID.x] = vec4(delta_known, difference, delta_all, 0.0);
    }
}
