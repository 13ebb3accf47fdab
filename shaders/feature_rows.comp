// What feature_map.glsl needs of each row x of a head: its largest value, and one over the sum of exp(x - largest).
//
//   x     fp32 [heads, stride, 4 * dim4]
//   rows  fp32 [heads, tokens, 2]
//
// An invocation owns a token (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer X { vec4 x_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Rows { vec2 rows[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint head_dim;
    uint first_head;  // of `rows`; x is bound from this head on
} p;

void main() {
    const uint token = gl_GlobalInvocationID.x;
    if (token >= p.tokens) return;
    const uint base = (gl_WorkGroupID.y * p.stride + token) * p.dim4;
    float largest = x_values[base].x;
    for (uint d4 = 0; d4 < p.dim4; ++d4) {
        const vec4 x = x_values[base + d4];
        for (uint c = 0; c < 4 && 4 * d4 + c < p.head_dim; ++c) largest = max(largest, x[c]);
    }
    float sum = 0.0;
    for (uint d4 = 0; d4 < p.dim4; ++d4) {
        const vec4 e = exp(x_values[base + d4] - largest);
        for (uint c = 0; c < 4 && 4 * d4 + c < p.head_dim; ++c) sum += e[c];
    }
    rows[(p.first_head + gl_WorkGroupID.y) * p.tokens + token] = vec2(largest, 1.0 / sum);
}
