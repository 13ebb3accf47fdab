// Adds linear attention to the result of block-sparse attention (sla fact 88):
// out[t, h head_dim + c] += feature(q[t]) folded[:, c] / (1e-5 + feature(q[t]) . features' sums) + bias[c]
//
//   q       fp32 [heads, stride, 4 * dim4]
//   rows    fp32 [heads, tokens, 2]: feature_rows.comp of q
//   folded  fp32 [heads, 4 * dim4 + 1, 4 * dim4]: linear_attention_fold.comp
//   bias    fp32 [4 * dim4]
//   out     fp32 [tokens, out_stride]
//
// An invocation owns four columns of a token (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "feature_map.glsl"

layout(set = 0, binding = 0, std430) readonly buffer Q { vec4 q[]; };
layout(set = 0, binding = 1, std430) readonly buffer Rows { vec2 rows[]; };
layout(set = 0, binding = 2, std430) readonly buffer Folded { vec4 folded[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { vec4 bias[]; };
layout(set = 0, binding = 4, std430) buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint head_dim;
    uint first_head;  // of `rows`, `folded` and `out`; q is bound from this head on
    uint first_row;   // `out` is bound from this token on
    uint row_count;
    uint out_stride;
} p;

void main() {
    const uint item = gl_GlobalInvocationID.x;
    if (item >= p.row_count * p.dim4) return;
    const uint token = p.first_row + item / p.dim4, c4 = item % p.dim4;
    const uint head = p.first_head + gl_WorkGroupID.y;
    const uint base = (gl_WorkGroupID.y * p.stride + token) * p.dim4;
    const uint columns = head * (4 * p.dim4 + 1) * p.dim4;
    const vec2 row = rows[head * p.tokens + token];
    vec4 sum = vec4(0.0);
    float norm = 1.0e-5;
    for (uint i4 = 0; i4 < p.dim4; ++i4) {
        const vec4 f = feature(q[base + i4], row, i4, p.head_dim);
        for (uint r = 0; r < 4; ++r) sum += f[r] * folded[columns + (4 * i4 + r) * p.dim4 + c4];
        norm += dot(f, folded[columns + 4 * p.dim4 * p.dim4 + i4]);
    }
    const vec4 y = sum / norm + bias[c4];
    const uint place = (token - p.first_row) * p.out_stride + head * p.head_dim + 4 * c4;
    for (uint c = 0; c < 4 && 4 * c4 + c < p.head_dim; ++c) out_values[place + c] += y[c];
}
