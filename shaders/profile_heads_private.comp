// The same as profile_heads.comp, for drivers where loads and shared memory are dear (CPU drivers): an invocation
// keeps four samples and their outputs to itself and walks over the keys four at a time, as
// attention_private.comp does. An array for each output, as there.
//
// Group x: kLanes * kSamples samples (kSamples is 4), group y: heads, group z: splits of the keys.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "profile.glsl"
#include "add_values.glsl"

/// Four more keys for the three outputs of a sample.
void add_to_sample(inout vec4 all, inout vec4 spatial, inout vec4 temporal, float factor[kMasks], vec4 weight[kMasks],
                   vec4 v0, vec4 v1, vec4 v2, vec4 v3) {
    all = add_values(all, factor[0], weight[0], v0, v1, v2, v3);
    spatial = add_values(spatial, factor[1], weight[1], v0, v1, v2, v3);
    temporal = add_values(temporal, factor[2], weight[2], v0, v1, v2, v3);
}

const uint kTile = 4;

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint sample0 = gl_WorkGroupID.x * kLanes * kSamples + lane;
    const uint kv = head * p.kv_stride;
    const uint last = p.tokens - 1;
    const uint begin = gl_WorkGroupID.z * p.split_keys;
    const uint end = min(begin + p.split_keys, p.tokens);
    const uvec2 edges = sight[0];

    uvec4 ranges[kSamples];
    vec4 q[kSamples][kDim4];
    vec4 all0[kSampled4], spatial0[kSampled4], temporal0[kSampled4];  // outputs of the first sample
    vec4 all1[kSampled4], spatial1[kSampled4], temporal1[kSampled4];
    vec4 all2[kSampled4], spatial2[kSampled4], temporal2[kSampled4];
    vec4 all3[kSampled4], spatial3[kSampled4], temporal3[kSampled4];
    float maximum[kSamples][kMasks];
    float denominator[kSamples][kMasks];
    [[unroll]] for (uint t = 0; t < kSamples; ++t) {
        // Those past the end repeat the last one, unwritten.
        const uint query = sampled_query(min(sample0 + t * kLanes, p.samples - 1));
        ranges[t] = seen_ranges(query);
        [[unroll]] for (uint d = 0; d < kDim4; ++d) {
            q[t][d] = load_q((head * p.q_stride + query) * kDim4 + d) * p.scale;
        }
        [[unroll]] for (uint m = 0; m < kMasks; ++m) {
            maximum[t][m] = kMasked;
            denominator[t][m] = 0.0;
        }
    }
    [[unroll]] for (uint d = 0; d < kSampled4; ++d) {
        all0[d] = spatial0[d] = temporal0[d] = all1[d] = spatial1[d] = temporal1[d] = vec4(0.0);
        all2[d] = spatial2[d] = temporal2[d] = all3[d] = spatial3[d] = temporal3[d] = vec4(0.0);
    }

    for (uint first = begin; first < end; first += kTile) {
        const uvec4 key = first + uvec4(0, 1, 2, 3);
        const uvec4 row = (kv + min(key, uvec4(last))) * kDim4;
        vec4 score[kSamples];
        [[unroll]] for (uint t = 0; t < kSamples; ++t) score[t] = vec4(0.0);
        [[unroll]] for (uint d = 0; d < kDim4; ++d) {
            const vec4 k0 = load_k(row.x + d), k1 = load_k(row.y + d);
            const vec4 k2 = load_k(row.z + d), k3 = load_k(row.w + d);
            [[unroll]] for (uint t = 0; t < kSamples; ++t) {
                score[t] += vec4(dot(q[t][d], k0), dot(q[t][d], k1), dot(q[t][d], k2), dot(q[t][d], k3));
            }
        }
        const uvec4 by_place = uvec4(place_index(key.x), place_index(key.y), place_index(key.z), place_index(key.w));
        vec4 weight[kSamples][kMasks];
        float factor[kSamples][kMasks];
        [[unroll]] for (uint t = 0; t < kSamples; ++t) {
            const vec4 all = mix(vec4(kMasked), score[t], lessThan(key, uvec4(end)));
            weight[t][0] = all;
            weight[t][1] = masked(all, key, ranges[t].xy, edges);
            weight[t][2] = masked(all, by_place, ranges[t].zw, edges);
            [[unroll]] for (uint m = 0; m < kMasks; ++m) {
                const vec4 s = weight[t][m];
                const float now = max(maximum[t][m], max(max(s.x, s.y), max(s.z, s.w)));
                const vec4 e = exp(s - now);
                factor[t][m] = exp(maximum[t][m] - now);
                maximum[t][m] = now;
                denominator[t][m] = denominator[t][m] * factor[t][m] + (e.x + e.y) + (e.z + e.w);
                weight[t][m] = e;
            }
        }
        [[unroll]] for (uint d = 0; d < kSampled4; ++d) {
            const uvec4 at = row + sampled_four(d);
            const vec4 v0 = load_v(at.x), v1 = load_v(at.y), v2 = load_v(at.z), v3 = load_v(at.w);
            add_to_sample(all0[d], spatial0[d], temporal0[d], factor[0], weight[0], v0, v1, v2, v3);
            add_to_sample(all1[d], spatial1[d], temporal1[d], factor[1], weight[1], v0, v1, v2, v3);
            add_to_sample(all2[d], spatial2[d], temporal2[d], factor[2], weight[2], v0, v1, v2, v3);
            add_to_sample(all3[d], spatial3[d], temporal3[d], factor[3], weight[3], v0, v1, v2, v3);
        }
    }

    [[unroll]] for (uint t = 0; t < kSamples; ++t) {
        const uint i = sample0 + t * kLanes;
        if (i >= p.samples) continue;
        [[unroll]] for (uint m = 0; m < kMasks; ++m) {
            const uint at = partial_at(head, i, m);
            partials[at] = vec4(maximum[t][m], denominator[t][m], 0.0, 0.0);
            [[unroll]] for (uint d = 0; d < kSampled4; ++d) {
                const vec4 all = t == 0 ? all0[d] : t == 1 ? all1[d] : t == 2 ? all2[d] : all3[d];
                const vec4 spatial = t == 0 ? spatial0[d] : t == 1 ? spatial1[d] : t == 2 ? spatial2[d] : spatial3[d];
                const vec4 temporal = t == 0 ? temporal0[d] : t == 1 ? temporal1[d] : t == 2 ? temporal2[d] : temporal3[d];
                partials[at + 1 + d] = m == 0 ? all : m == 1 ? spatial : temporal;
            }
        }
    }
}
