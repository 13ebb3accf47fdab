// Of each column of a head over its tokens, for attention in codes of eight bits (attention_codes.glsl):
//
//   kPeak = 0:   out[h, c] = mean over t of x[h, t, c]              what is taken out of k
//   kPeak = 1:   out[h, c] = max over t of |x[h, t, c]| / 127       v's scales; 0 for a column of zeros
//
//   x     fp32 [heads, stride, 4 p.dim4]
//   out   fp32 [heads, p.out_stride], from p.out_offset on; columns past the last are zero there
//
// A work-group takes four vec4 of columns of one head, and every kRowLanes-th token with each lane: rows of 64 bytes are
// what a device reads at once. Sums in fixed order. Group x: 16 columns, group y: heads.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "codes.glsl"

layout(constant_id = 1) const uint kRowLanes = 4;  // a fourth of the work-group's width
layout(constant_id = 2) const uint kPeak = 0;

layout(set = 0, binding = 0, std430) readonly buffer X { vec4 x_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint first_head;  // of `out`; x is bound from this head on
    uint out_stride;
    uint out_offset;
} p;

shared uvec4 parts[kRowLanes][4];

/// In bits that order by magnitude, a NaN above all.
uvec4 larger(uvec4 a, uvec4 x) { return max(a, x & 0x7FFFFFFFu); }

void main() {
    const uint four = gl_LocalInvocationID.x % 4;
    const uint row_lane = gl_LocalInvocationID.x / 4;
    const uint column4 = 4 * gl_WorkGroupID.x + four;
    const uint base = gl_WorkGroupID.y * p.stride * p.dim4 + min(column4, p.dim4 - 1);

    vec4 sum = vec4(0.0);
    uvec4 peak = uvec4(0);
    for (uint t = row_lane; t < p.tokens; t += kRowLanes) {
        const vec4 x = x_values[base + t * p.dim4];
        if (kPeak != 0) {
            peak = larger(peak, floatBitsToUint(x));
        } else {
            sum += x;
        }
    }
    parts[row_lane][four] = kPeak != 0 ? peak : floatBitsToUint(sum);
    barrier();
    if (row_lane != 0) return;
    for (uint i = 1; i < kRowLanes; ++i) {
        if (kPeak != 0) {
            peak = larger(peak, parts[i][four]);
        } else {
            sum += uintBitsToFloat(parts[i][four]);
        }
    }
    for (uint c = 0; c < 4; ++c) {
        const float value = kPeak != 0 ? code_scale(peak[c]) : sum[c] / float(p.tokens);
        out_values[(p.first_head + gl_WorkGroupID.y) * p.out_stride + p.out_offset + 4 * column4 + c] =
            column4 < p.dim4 ? value : 0.0;
    }
}
