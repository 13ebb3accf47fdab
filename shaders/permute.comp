// Strided copy over up to 5 dimensions: out[sum i_d * out_stride_d] = in[sum i_d * in_stride_d].
// Transposes, patches, head layouts, zero-padded rows (sizes beyond `in_limit` of the innermost
// dimension write zeros). One invocation per element.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint size[5];  // innermost last
    uint in_stride[5];
    uint out_stride[5];
    uint in_limit;  // innermost indices from here on write zero
    uint in_offset;
    uint out_offset;
    uint count;     // product of sizes
} p;

void main() {
    // Two group dimensions, because one reaches only 65,535 groups on some devices.
    const uint index = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) *
                           gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (index >= p.count) return;
    uint rest = index;
    uint in_index = p.in_offset;
    uint out_index = p.out_offset;
    uint innermost = 0;
    for (int d = 4; d >= 0; --d) {
        const uint i = rest % p.size[d];
        rest /= p.size[d];
        if (d == 4) innermost = i;
        in_index += i * p.in_stride[d];
        out_index += i * p.out_stride[d];
    }
    out_values[out_index] = innermost < p.in_limit ? in_values[in_index] : 0.0;
}
