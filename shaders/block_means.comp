// The mean of each block of tokens: what stands for its queries or keys where blocks are chosen.
//
//   x      fp32 [heads, stride, 4 * dim4]: q or k of attention, in the head's order of tokens
//   means  fp32 [heads, mean_stride, 4 * dim4], of each block; the last one may be shorter. With `group` > 1 so many
//          neighbours share the mean of all their tokens
//
// An invocation owns four columns of a block (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "loads.glsl"

LOADABLE(x, 0)
layout(set = 0, binding = 1, std430) writeonly buffer Means { vec4 means[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint block;       // tokens of a block
    uint blocks;
    uint stride;      // tokens a head
    uint dim4;
    uint first_head;  // of `means`; x is bound from this head on
    uint group;       // blocks that share a mean
    uint mean_stride;
} p;

void main() {
    const uint item = gl_GlobalInvocationID.x;
    if (item >= p.blocks * p.dim4) return;
    const uint tokens = p.group * p.block;
    const uint first = item / p.dim4 / p.group * tokens;
    const uint count = min(tokens, p.tokens - first);
    const uint base = (gl_WorkGroupID.y * p.stride + first) * p.dim4 + item % p.dim4;
    vec4 sum = vec4(0.0);
    for (uint t = 0; t < count; ++t) sum += load_x(base + t * p.dim4);
    means[(p.first_head + gl_WorkGroupID.y) * p.mean_stride * p.dim4 + item] = sum / float(count);
}
