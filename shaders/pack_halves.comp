// fp32 to halves, for operands of matrix units: out[i] = half(in[i]), four values at a time. Finite values
// beyond the largest half become it; what isn't finite stays so, to be noticed.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer In { vec4 in_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { uvec2 out_values[]; };

layout(push_constant) uniform Push {
    uint fours;
    uint each;  // fours an invocation converts, a group's width apart
} p;

void main() {
    const uint begin = gl_WorkGroupID.x * gl_WorkGroupSize.x * p.each + gl_LocalInvocationID.x;
    for (uint n = 0; n < p.each; ++n) {
        const uint i = begin + n * gl_WorkGroupSize.x;
        if (i >= p.fours) return;
        const vec4 x = in_values[i];
        const vec4 y = mix(clamp(x, vec4(-65504.0), vec4(65504.0)), x, notEqual(x - x, vec4(0.0)));
        out_values[i] = uvec2(packHalf2x16(y.xy), packHalf2x16(y.zw));
    }
}
