// Of linear attention what all queries share, over parts of the tokens: sums[i, j] = sum over t of feature(k[t])_i v[t, j],
// and as the last row the sum of the features.
//
//   k, v      fp32 [heads, stride, 4 * dim4]
//   rows      fp32 [heads, tokens, 2]: feature_rows.comp of k
//   partials  fp32 [heads, parts, 4 * dim4 + 1, 4 * dim4]
//
// An invocation owns a square of 4 x 4 (x) of a part (y) of a head (z); those of the first columns the features' sums, too.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "feature_map.glsl"

layout(set = 0, binding = 0, std430) readonly buffer K { vec4 k[]; };
layout(set = 0, binding = 1, std430) readonly buffer V { vec4 v[]; };
layout(set = 0, binding = 2, std430) readonly buffer Rows { vec2 rows[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Partials { vec4 partials[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint head_dim;
    uint part;        // tokens of a part
    uint parts;
    uint first_head;  // of `rows` and `partials`; k and v are bound from this head on
} p;

void main() {
    const uint item = gl_GlobalInvocationID.x;
    if (item >= p.dim4 * p.dim4) return;
    const uint i4 = item / p.dim4, j4 = item % p.dim4;
    const uint first = gl_WorkGroupID.y * p.part;
    const uint last = min(first + p.part, p.tokens);
    const uint head = p.first_head + gl_WorkGroupID.z;
    mat4 sums = mat4(0.0);
    vec4 features = vec4(0.0);
    for (uint t = first; t < last; ++t) {
        const uint base = (gl_WorkGroupID.z * p.stride + t) * p.dim4;
        const vec4 f = feature(k[base + i4], rows[head * p.tokens + t], i4, p.head_dim);
        const vec4 value = v[base + j4];
        features += f;
        for (uint r = 0; r < 4; ++r) sums[r] += f[r] * value;
    }
    const uint out_base = (head * p.parts + gl_WorkGroupID.y) * (4 * p.dim4 + 1) * p.dim4;
    for (uint r = 0; r < 4; ++r) partials[out_base + (4 * i4 + r) * p.dim4 + j4] = sums[r];
    if (j4 == 0) partials[out_base + 4 * p.dim4 * p.dim4 + i4] = features;
}
