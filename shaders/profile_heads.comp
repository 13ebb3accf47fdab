// How much each mask would change a head's output, on a few queries: attention of sampled queries to all keys, to
// those that the query sees, and to those for which the same holds of the indices place by place
// (token_order.glsl). The last two are the masks that the sparse kernel will apply. Scores are computed once; the three softmaxes differ
// in which of them they take.
//
//   q, k, v    fp32 [heads, *_stride, padded_dim], frame by frame
//   sight      uint32 [1 + tokens, 2]: as in attention_tiled.comp
//   partials   vec4 [heads, samples, splits, 3, 1 + kSampled4]: of the keys of one split and each mask the
//              maximum m of the scores and sum_j exp(s_j - m), then sum_j exp(s_j - m) v_j in the sampled columns;
//              profile_errors.comp puts the splits together
//
// Columns of the outputs are sampled like queries, since most of the time would go into them: with 32 of 64 columns the
// types that are chosen raise the masks' squared error by 0.3 % over the best types, with all by 0.1 %
// (bench/replay/head_types.py).
//
// A work-group takes kSamples samples (x) of a head (y) and split_keys keys (z), in tiles as attention_tiled.comp does.
// Few samples and heads fill a wide device only with the keys cut in many splits.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "profile.glsl"

const uint kKeysPerLane = 4;
const uint kTile = kLanes * kKeysPerLane;
const uint kParts = kLanes / kSampled4;  // of a tile's fours of keys: kSampled4 invocations sum one part's values

shared vec4 weights[kMasks * kSamples][kTile / 4 + 1];  // one more column: rows begin in different banks
shared float rescale[kMasks * kSamples];
shared float maximum[kMasks * kSamples];
shared float denominator[kMasks * kSamples];

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint sample0 = gl_WorkGroupID.x * kSamples;
    const uint last_sample = p.samples - 1;
    const uint kv = head * p.kv_stride;
    const uint last = p.tokens - 1;
    const uint begin = gl_WorkGroupID.z * p.split_keys;
    const uint end = min(begin + p.split_keys, p.tokens);
    const uvec2 edges = sight[0];

    uint query[kSamples];  // those past the end repeat the last one, unwritten
    uvec4 ranges[kSamples];
    vec4 sum[kMasks * kSamples];
    [[unroll]] for (uint t = 0; t < kSamples; ++t) {
        const uint token = sampled_query(min(sample0 + t, last_sample));
        query[t] = (head * p.q_stride + token) * kDim4;
        ranges[t] = seen_ranges(token);
    }
    [[unroll]] for (uint t = 0; t < kMasks * kSamples; ++t) sum[t] = vec4(0.0);
    const uint four = sampled_four(lane % kSampled4);
    const uint part = lane / kSampled4;
    for (uint t = lane; t < kMasks * kSamples; t += kLanes) {
        maximum[t] = kMasked;
        denominator[t] = 0.0;
    }

    for (uint first = begin; first < end; first += kTile) {
        {
            const uvec4 key = first + lane * kKeysPerLane + uvec4(0, 1, 2, 3);
            const uvec4 k = (kv + min(key, uvec4(last))) * kDim4;
            vec4 score[kSamples];
            [[unroll]] for (uint t = 0; t < kSamples; ++t) score[t] = vec4(0.0);
            [[dont_unroll]] for (uint d = 0; d < kDim4; ++d) {
                const vec4 a = load_k(k.x + d);
                const vec4 b = load_k(k.y + d);
                const vec4 c = load_k(k.z + d);
                const vec4 e = load_k(k.w + d);
                [[unroll]] for (uint t = 0; t < kSamples; ++t) {
                    const vec4 q = load_q(query[t] + d);
                    score[t] += vec4(dot(q, a), dot(q, b), dot(q, c), dot(q, e));
                }
            }
            const uvec4 by_place = uvec4(place_index(key.x), place_index(key.y), place_index(key.z), place_index(key.w));
            [[unroll]] for (uint t = 0; t < kSamples; ++t) {
                const vec4 s = mix(vec4(kMasked), score[t] * p.scale, lessThan(key, uvec4(end)));
                weights[kMasks * t][lane] = s;
                weights[kMasks * t + 1][lane] = masked(s, key, ranges[t].xy, edges);
                weights[kMasks * t + 2][lane] = masked(s, by_place, ranges[t].zw, edges);
            }
        }
        barrier();
        for (uint t = lane; t < kMasks * kSamples; t += kLanes) {
            // Not unrolled: compilers would keep all of the row in registers.
            vec4 largest = weights[t][0];
            [[dont_unroll]] for (uint j = 1; j < kLanes; ++j) largest = max(largest, weights[t][j]);
            const float before = maximum[t];
            const float now = max(before, max(max(largest.x, largest.y), max(largest.z, largest.w)));
            vec4 total = vec4(0.0);
            [[dont_unroll]] for (uint j = 0; j < kLanes; ++j) {
                const vec4 e = exp(weights[t][j] - now);
                weights[t][j] = e;
                total += e;
            }
            const float factor = exp(before - now);
            maximum[t] = now;
            rescale[t] = factor;
            denominator[t] = denominator[t] * factor + total.x + total.y + total.z + total.w;
        }
        barrier();
        const uint tile_keys = min(kTile, end - first);
        [[unroll]] for (uint t = 0; t < kMasks * kSamples; ++t) sum[t] *= rescale[t];
        for (uint j = 4 * part; part < kParts && j < tile_keys; j += 4 * kParts) {
            // Keys past the end have weight zero; their values are those of the last key.
            const uvec4 key = (kv + min(first + j + uvec4(0, 1, 2, 3), uvec4(last))) * kDim4 + four;
            const vec4 v0 = load_v(key.x);
            const vec4 v1 = load_v(key.y);
            const vec4 v2 = load_v(key.z);
            const vec4 v3 = load_v(key.w);
            [[unroll]] for (uint t = 0; t < kMasks * kSamples; ++t) {
                const vec4 e = weights[t][j / 4];
                sum[t] += e.x * v0 + e.y * v1 + e.z * v2 + e.w * v3;
            }
        }
        barrier();
    }

    [[unroll]] for (uint t = 0; t < kMasks * kSamples; ++t) weights[t][lane] = sum[t];
    barrier();
    for (uint n = lane; n < kMasks * kSamples * kSampled4; n += kLanes) {
        const uint t = n / kSampled4;
        const uint d = n % kSampled4;
        const uint i = sample0 + t / kMasks;
        if (i >= p.samples) continue;
        vec4 total = weights[t][d];
        for (uint other = 1; other < kParts; ++other) total += weights[t][other * kSampled4 + d];
        const uint at = partial_at(head, i, t % kMasks);
        if (d == 0) partials[at] = vec4(maximum[t], denominator[t], 0.0, 0.0);
        partials[at + 1 + d] = total;
    }
}
