// errors[head, sample] = (|o - o_spatial|^2, |o - o_temporal|^2) from the partial results of profile_heads.comp, in the
// columns that were sampled there.
//
//   partials  vec4 [heads, samples, splits, 3, 1 + kSampled4]
//   errors    fp32 [heads, samples, 2]
//
// One work-group per sample (x) and head (y).
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kSampled4 = 8;

layout(set = 0, binding = 0, std430) readonly buffer Partials { vec4 partials[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Errors { vec2 errors[]; };

layout(push_constant) uniform Push {
    uint splits;
    uint first_head;  // of `errors`; `partials` are bound from this head on
} p;

#include "reduce.glsl"

const uint kMasks = 3;
const float kMasked = -3.0e38;

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint samples = gl_NumWorkGroups.x;
    const uint base = (gl_WorkGroupID.y * samples + gl_WorkGroupID.x) * p.splits * kMasks * (1 + kSampled4);
    vec2 error = vec2(0.0);
    for (uint d = lane; d < kSampled4; d += gl_WorkGroupSize.x) {
        vec4 o[kMasks];
        [[unroll]] for (uint m = 0; m < kMasks; ++m) {
            float largest = kMasked;
            float total = 0.0;
            vec4 sum = vec4(0.0);
            for (uint i = 0; i < p.splits; ++i) {
                const uint at = base + (i * kMasks + m) * (1 + kSampled4);
                const vec2 part = partials[at].xy;
                const float now = max(largest, part.x);
                const float before = exp(largest - now);
                const float factor = exp(part.x - now);
                largest = now;
                total = total * before + part.y * factor;
                sum = sum * before + factor * partials[at + 1 + d];
            }
            o[m] = largest > kMasked ? sum / total : vec4(0.0);  // zero where the query sees nothing
        }
        const vec4 spatial = o[1] - o[0];
        const vec4 temporal = o[2] - o[0];
        error += vec2(dot(spatial, spatial), dot(temporal, temporal));
    }
    const float spatial = workgroup_sum(error.x);
    const float temporal = workgroup_sum(error.y);
    if (lane == 0) errors[(p.first_head + gl_WorkGroupID.y) * samples + gl_WorkGroupID.x] = vec2(spatial, temporal);
}
