// How much each mask would change a head's output, on a few queries:
//
//   errors[head, sample] = (|o - o_spatial|^2, |o - o_temporal|^2)
//
// o attends to all keys, o_spatial to those that query i sees, o_temporal to those for which the same holds
// of the indices place by place, p F + f: the masks that the sparse kernel will apply.
//
//   q, k, v    fp32 [heads, *_stride, padded_dim], frame by frame
//   sight      uint32 [1 + tokens, 2]: as in attention.comp
//   errors     fp32 [heads, samples, 2]
//
// Samples are spread over all queries, one in each of as many equal ranges. One work-group per sample (x)
// and head (y) goes over the keys twice: for the three maxima, then for the three weighted sums.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kDim4 = 16;
layout(constant_id = 2) const uint kLanes = 16;  // the work-group's width again: sizes arrays
layout(constant_id = 3) const uint kFrames = 1;
const uint kVectors = (kDim4 + kLanes - 1) / kLanes;

#include "attention_operands.glsl"
layout(set = 0, binding = 3, std430) readonly buffer Sight { uvec2 sight[]; };
layout(set = 0, binding = 4, std430) writeonly buffer Errors { vec2 errors[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint places;
    uint q_stride;
    uint kv_stride;
    uint first_head;  // of `errors`; q, k and v are bound from this head on
    float scale;
} p;

#include "reduce.glsl"

const float kMasked = -3.0e38;
shared vec3 weights[kLanes];

uint hash(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

uint place_index(uint token) {
    return token % p.places * kFrames + token / p.places;
}

bool seen(uint key, uvec2 range, uvec2 edges) {
    return (key >= range.x && key < range.y) || key < edges.x || key >= edges.y;
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint samples = gl_NumWorkGroups.x;
    const uint begin = gl_WorkGroupID.x * p.tokens / samples;
    const uint end = (gl_WorkGroupID.x + 1) * p.tokens / samples;
    const uint query = min(begin + hash(gl_WorkGroupID.x) % max(end - begin, 1u), p.tokens - 1);
    const uint query_place = place_index(query);
    const uint q = (head * p.q_stride + query) * kDim4;
    const uint kv = head * p.kv_stride;

    const uvec2 edges = sight[0];
    const uvec2 range = sight[1 + query];
    const uvec2 range_by_place = sight[1 + query_place];

    vec3 largest = vec3(kMasked);
    vec3 maxima = vec3(0.0);
    vec3 total = vec3(0.0);
    vec4 sum[3][kVectors];
    [[unroll]] for (uint m = 0; m < 3; ++m) {
        [[unroll]] for (uint i = 0; i < kVectors; ++i) sum[m][i] = vec4(0.0);
    }
    for (uint pass = 0; pass < 2; ++pass) {
        for (uint first = 0; first < p.tokens; first += kLanes) {
            const uint key = first + lane;
            vec3 score = vec3(kMasked);
            if (key < p.tokens) {
                vec4 products = vec4(0.0);
                for (uint d = 0; d < kDim4; ++d) products += load_q(q + d) * load_k((kv + key) * kDim4 + d);
                const float s = p.scale * (products.x + products.y + products.z + products.w);
                score.x = s;
                if (seen(key, range, edges)) score.y = s;
                if (seen(place_index(key), range_by_place, edges)) score.z = s;
            }
            if (pass == 0) {
                largest = max(largest, score);
                continue;
            }
            const vec3 e = mix(exp(score - maxima), vec3(0.0), lessThanEqual(score, vec3(kMasked)));
            total += e;
            barrier();
            weights[lane] = e;
            barrier();
            const uint count = min(kLanes, p.tokens - first);
            for (uint j = 0; j < count; ++j) {
                const vec3 w = weights[j];
                [[unroll]] for (uint i = 0; i < kVectors; ++i) {
                    const vec4 v = load_v((kv + first + j) * kDim4 + min(i * kLanes + lane, kDim4 - 1));
                    sum[0][i] += w.x * v;
                    sum[1][i] += w.y * v;
                    sum[2][i] += w.z * v;
                }
            }
        }
        if (pass == 0) {
            maxima.x = workgroup_max(largest.x);
            maxima.y = workgroup_max(largest.y);
            maxima.z = workgroup_max(largest.z);
        }
    }
    const float all = workgroup_sum(total.x);
    const float spatial = workgroup_sum(total.y);
    const float temporal = workgroup_sum(total.z);
    vec2 error = vec2(0.0);
    [[unroll]] for (uint i = 0; i < kVectors; ++i) {
        if (i * kLanes + lane < kDim4) {
            const vec4 o = sum[0][i] / all;
            const vec4 s = sum[1][i] / spatial - o;
            const vec4 t = sum[2][i] / temporal - o;
            error += vec2(dot(s, s), dot(t, t));
        }
    }
    const float spatial_error = workgroup_sum(error.x);
    const float temporal_error = workgroup_sum(error.y);
    if (lane == 0) {
        errors[(p.first_head + head) * samples + gl_WorkGroupID.x] = vec2(spatial_error, temporal_error);
    }
}
