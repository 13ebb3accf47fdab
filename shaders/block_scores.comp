// How much each block of queries asks for each block of keys: scores[i, j] = scale * mean q of i . mean k of j
//
//   q, k    fp32 [heads, stride, 4 * dim4]: block_means.comp
//   scores  fp32 [heads, blocks, 4 * stride4]; the columns past the last block are kNothing
//
// What is written orders without exceptions: a score that isn't finite is kNothing, and there is no negative zero.
// An invocation owns kRows rows and four columns (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer Q { vec4 q[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { vec4 k[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Scores { vec4 scores[]; };

layout(push_constant) uniform Push {
    uint blocks;
    uint stride4;
    uint stride;
    uint dim4;
    uint first_head;  // of q and k; `scores` are bound from this head on
    float scale;
} p;

const uint kRows = 4;
const float kNothing = -3.0e38;

float ordered(float score) {
    const uint magnitude = floatBitsToUint(score) & 0x7FFFFFFFu;
    if (magnitude >= 0x7F800000u) return kNothing;
    return magnitude == 0 ? 0.0 : score;
}

void main() {
    const uint item = gl_GlobalInvocationID.x;
    const uint row0 = item / p.stride4 * kRows;
    if (row0 >= p.blocks) return;
    const uint column = item % p.stride4 * 4;
    const uint last = p.blocks - 1;
    const uint head = (p.first_head + gl_WorkGroupID.y) * p.stride;
    const uvec4 key = (head + min(column + uvec4(0, 1, 2, 3), uvec4(last))) * p.dim4;

    vec4 score[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) score[r] = vec4(0.0);
    for (uint d = 0; d < p.dim4; ++d) {
        const vec4 a = k[key.x + d], b = k[key.y + d], c = k[key.z + d], e = k[key.w + d];
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const vec4 x = q[(head + min(row0 + r, last)) * p.dim4 + d];
            score[r] += vec4(dot(x, a), dot(x, b), dot(x, c), dot(x, e));
        }
    }
    [[unroll]] for (uint r = 0; r < kRows; ++r) {
        if (row0 + r >= p.blocks) break;
        vec4 s = score[r] * p.scale;
        for (uint i = 0; i < 4; ++i) s[i] = column + i < p.blocks ? ordered(s[i]) : kNothing;
        scores[(gl_WorkGroupID.y * p.blocks + row0 + r) * p.stride4 + item % p.stride4] = s;
    }
}
