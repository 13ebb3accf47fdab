// out[t, h head_dim + c] += the SSAR correction (residual.glsl). The attention kernel does the same in
// its epilogue; this pass is for devices that can't bind all its buffers at once.
//
//   out  fp32 [rows, stride]
//
// One invocation per token, head and four columns; group y: rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint stride;
    uint first_row;  // of `out` and `rows` as they are bound
} p;

#define RESIDUAL_CONSTANT 1
#define RESIDUAL_BINDING 1
#include "residual.glsl"

void main() {
    const uint item = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    const uint row = gl_WorkGroupID.y;
    if (item >= kResidualHeads * kHead4) return;
    const uint head = item / kHead4;
    const uint d4 = item % kHead4;
    const vec4 y = residual_at(row, p.first_row + row, head, d4, residual_weight(head));
    for (uint c = 0; c < 4; ++c) {
        if (4 * d4 + c < kResidualDim) out_values[row * p.stride + head * kResidualDim + 4 * d4 + c] += y[c];
    }
}
