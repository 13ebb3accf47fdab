// The parts of linear_attention_sums.comp together, and behind them the projection of its results:
// folded[i, c] = sum over j of sums[i, j] weight[c, j]; the last row, the features' sums, stays as it is.
//
//   partials  fp32 [heads, parts, 4 * dim4 + 1, 4 * dim4]
//   weight    fp32 [head_dim, 4 * dim4]: input j of the projection in row j, output c in column c
//   folded    fp32 [heads, 4 * dim4 + 1, 4 * dim4]
//
// A work-group owns a row (x) of a head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(set = 0, binding = 0, std430) readonly buffer Partials { vec4 partials[]; };
layout(set = 0, binding = 1, std430) readonly buffer Weight { vec4 weight[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Folded { vec4 folded[]; };

layout(push_constant) uniform Push {
    uint dim4;
    uint head_dim;
    uint parts;
} p;

const uint kWidest4 = 64;
shared vec4 sums[kWidest4];

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint rows = 4 * p.dim4 + 1;
    for (uint j4 = gl_LocalInvocationID.x; j4 < p.dim4; j4 += gl_WorkGroupSize.x) {
        vec4 sum = vec4(0.0);
        for (uint part = 0; part < p.parts; ++part) {
            sum += partials[((gl_WorkGroupID.y * p.parts + part) * rows + row) * p.dim4 + j4];
        }
        sums[j4] = sum;
    }
    barrier();
    for (uint c4 = gl_LocalInvocationID.x; c4 < p.dim4; c4 += gl_WorkGroupSize.x) {
        vec4 result = sums[c4];
        if (row + 1 < rows) {
            result = vec4(0.0);
            for (uint j = 0; j < p.head_dim; ++j) result += sums[j / 4][j % 4] * weight[j * p.dim4 + c4];
        }
        folded[(gl_WorkGroupID.y * rows + row) * p.dim4 + c4] = result;
    }
}
