// types[head] = 1 when the temporal mask changes the sampled outputs less than the spatial one, else 0.
//
//   errors  fp32 [heads, samples, 2]: profile_errors.comp
//   types   uint32 [heads]
//
// One invocation per head.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer Errors { vec2 errors[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Types { uint types[]; };

layout(push_constant) uniform Push {
    uint heads;
    uint samples;
} p;

void main() {
    const uint head = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (head >= p.heads) return;
    vec2 sum = vec2(0.0);
    for (uint i = 0; i < p.samples; ++i) sum += errors[head * p.samples + i];
    types[head] = sum.y < sum.x ? 1 : 0;
}
