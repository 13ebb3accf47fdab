// out[i, j] = sum over chunks of partial[chunk, i, j], in order, so that every run gives the same bits.
//
//   partial  fp32 [chunks, partial_rows, 4 b4]
//   out      fp32 [rows, 4 b4]
//   mask     uint32 [heads]: rows i with mask[i / head_dim] == 0 become zero (kMasked)
//
// One invocation per four columns of a row.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kMasked = 0;

layout(set = 0, binding = 0, std430) readonly buffer Partial { vec4 partials[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { vec4 out_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer Mask { uint mask[]; };

layout(push_constant) uniform Push {
    uint chunks;
    uint rows;
    uint partial_rows;
    uint b4;
    uint head_dim;
    uint mask_offset;
} p;

void main() {
    const uint i = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (i >= p.rows * p.b4) return;
    vec4 sum = vec4(0.0);
    if (kMasked == 0 || mask[p.mask_offset + i / p.b4 / p.head_dim] != 0) {
        for (uint chunk = 0; chunk < p.chunks; ++chunk) sum += partials[chunk * p.partial_rows * p.b4 + i];
    }
    out_values[i] = sum;
}
