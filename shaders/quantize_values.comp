// v in codes of eight bits for attention (attention_codes.glsl), four keys of a column a word:
//
//   code[h, t, c] = roundEven(v[h, t, c] / s[h, c])      zeros from token p.tokens on and in columns of zeros
//
//   v       fp32 [heads, stride, 4 p.dim4]
//   scales  fp32 [heads, p.scale_stride], from p.scale_offset on (head_columns.comp)
//   codes   words [heads, stride / 4, 16 p.dim16]; nothing is written from column 4 p.dim4 on
//
// One invocation codes four keys in four columns. Group y: heads.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "codes.glsl"

layout(set = 0, binding = 0, std430) readonly buffer V { vec4 v_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer Scales { float scales[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Codes { uvec4 codes[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint dim16;
    uint first_head;  // of `scales`; v and codes are bound from this head on
    uint scale_stride;
    uint scale_offset;
} p;

void main() {
    const uint i = gl_GlobalInvocationID.x;
    if (i >= p.stride / 4 * p.dim4) return;
    const uint head = gl_WorkGroupID.y;
    const uint four = i / p.dim4;
    const uint d = i % p.dim4;
    vec4 rows[4];
    for (uint n = 0; n < 4; ++n) {
        const uint token = 4 * four + n;
        rows[n] = token < p.tokens ? v_values[(head * p.stride + token) * p.dim4 + d] : vec4(0.0);
    }
    const uint s = (p.first_head + head) * p.scale_stride + p.scale_offset + 4 * d;
    uvec4 words;
    for (uint c = 0; c < 4; ++c) {
        words[c] = coded(vec4(rows[0][c], rows[1][c], rows[2][c], rows[3][c]), vec4(scales[s + c]));
    }
    codes[(head * (p.stride / 4) + four) * (4 * p.dim16) + d] = words;
}
