// The same as attention_tiled.comp, for drivers where loads and shared memory are dear and registers spill to a
// fast stack (CPU drivers): an invocation keeps four queries and their outputs to itself and walks over
// the keys four at a time with running maxima of its own. Each key and value that is loaded serves
// these queries of every lane; there is no shared memory and no barrier.
//
// The outputs of each query are an array of their own. lavapipe (Mesa 22.3) keeps larger ones, or arrays
// of arrays, in memory and stores a value that is computed in a loop lane by lane: 2.0 times as long for
// 12 heads of 128, 2,048 tokens. With eight queries instead of four, it takes 0.8 times as long and
// compiles twice as long.
//
// Bindings, masks and outputs: attention_tiled.comp. Group x: kLanes * kQueries queries (kQueries is 4), group y: heads.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

const uint kTile = 4;
#include "attention.glsl"
#include "attention_sums.glsl"
#include "add_values.glsl"
#if defined(SPARSE) && !defined(BOTH)
#define CORRECTED
const uint kFactors = kFactor4 > 0 ? kFactor4 : 1;
#endif

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint query0 = gl_WorkGroupID.x * kLanes * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;

    uint row[kQueries];  // those past the end repeat the last one, unwritten
#ifdef SPARSE
    uvec2 sees[kQueries];  // in partial blocks: the first key and how many, and those all queries see
    const uvec2 all_see = min(sight[0], uvec2(p.keys));
#endif
    vec4 q[kQueries][kDim4];
    vec4 sum0[kDim4], sum1[kDim4], sum2[kDim4], sum3[kDim4];
    float maximum[kQueries];
    float denominator[kQueries];
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        row[t] = min(p.query_base + query0 + t * kLanes + lane, last_row);
#ifdef SPARSE
        const uvec2 range = sight[1 + row[t]];
        const uint range_end = min(range.y, p.keys);
        sees[t] = uvec2(range.x, range_end - min(range.x, range_end));
#endif
        maximum[t] = kMasked;
        denominator[t] = 0.0;
        [[unroll]] for (uint d = 0; d < kDim4; ++d) q[t][d] = load_q((q_head + row[t]) * kDim4 + d) * p.scale;
    }
    [[unroll]] for (uint d = 0; d < kDim4; ++d) sum0[d] = sum1[d] = sum2[d] = sum3[d] = vec4(0.0);

#ifdef SPARSE
    uint list = (p.first_head + head) * p.list_stride + (p.query_base + query0) / kBlock;
#ifdef BOTH
    list *= 2;
    [[dont_unroll]] for (uint pass = 0; pass < 2; ++pass, ++list) {
#endif
    uint next = row_ptr[list];
    const uint entries_end = row_ptr[list + 1];
    while (next < entries_end) {
        uint entry = columns[next++];
        uvec2 range = keys_of(entry, kTile);
        // Neighbours of the same kind make one range: a loop's end carries the sums through memory.
        while (next < entries_end && is_whole(entry) && columns[next] == entry + 1) {
            entry = columns[next++];
            range.y += kBlock;
        }
        const bool partial = (entry & kPartial) != 0;
        uvec2 inside[kQueries];  // the first key a query sees, and how many; beside them, what all see
        [[unroll]] for (uint t = 0; t < kQueries; ++t) inside[t] = partial ? sees[t] : uvec2(0, p.keys);
        const uint prefix = partial ? all_see.x : 0;
        const uvec2 suffix = uvec2(all_see.y, p.keys - all_see.y);
#else
    {
        const uvec2 range = uvec2(0, p.keys);
#endif
        for (uint first = range.x; first < range.y; first += kTile) {
            const uint last = p.keys - 1;
            uint key[4];
            [[unroll]] for (uint j = 0; j < 4; ++j) key[j] = (kv_head + min(first + j, last)) * kDim4;

            vec4 score[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) score[t] = vec4(0.0);
            [[unroll]] for (uint d = 0; d < kDim4; ++d) {
                const vec4 k0 = load_k(key[0] + d), k1 = load_k(key[1] + d);
                const vec4 k2 = load_k(key[2] + d), k3 = load_k(key[3] + d);
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    score[t] += vec4(dot(q[t][d], k0), dot(q[t][d], k1), dot(q[t][d], k2), dot(q[t][d], k3));
                }
            }
            // Drivers that run lanes as a vector run both sides of a branch: what queries share of the mask comes first.
            const uvec4 keys = first + uvec4(0, 1, 2, 3);
#ifdef SPARSE
            // In a range if the distance from its begin, which wraps around below it, is short.
            const bvec4 by_all = mix(lessThan(keys - suffix.x, uvec4(suffix.y)), bvec4(true), lessThan(keys, uvec4(prefix)));
#endif
#if !defined(SPARSE) || defined(BOTH)
            const bvec4 exist = lessThan(keys, uvec4(p.keys));
#endif
            float factor[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                vec4 s = score[t];
                if (kHasBias != 0) s += position_bias(head, row[t], first);
#ifdef SPARSE
                bvec4 seen = mix(by_all, bvec4(true), lessThan(keys - inside[t].x, uvec4(inside[t].y)));
#ifdef BOTH
                seen = mix(bvec4(false), mix(seen, not(seen), bvec4(partial && pass != 0)), exist);
#endif
#else
                const bvec4 seen = exist;
#endif
                s = mix(vec4(kMasked), s, seen);
                const float now = max(maximum[t], max(max(s.x, s.y), max(s.z, s.w)));
                const vec4 e = exp(s - now);
                factor[t] = exp(maximum[t] - now);
                maximum[t] = now;
                denominator[t] = denominator[t] * factor[t] + (e.x + e.y) + (e.z + e.w);
                score[t] = e;
            }
            [[unroll]] for (uint d = 0; d < kDim4; ++d) {
                const vec4 v0 = load_v(key[0] + d), v1 = load_v(key[1] + d);
                const vec4 v2 = load_v(key[2] + d), v3 = load_v(key[3] + d);
                sum0[d] = add_values(sum0[d], factor[0], score[0], v0, v1, v2, v3);
                sum1[d] = add_values(sum1[d], factor[1], score[1], v0, v1, v2, v3);
                sum2[d] = add_values(sum2[d], factor[2], score[2], v0, v1, v2, v3);
                sum3[d] = add_values(sum3[d], factor[3], score[3], v0, v1, v2, v3);
            }
        }
    }

#ifdef CORRECTED
    // Beside the sums, in an array that stays in memory: unrolled into what follows, its code is there kQueries * kDim4
    // times and compiles for long; added to what has been written, it reads that back, which is dear.
    vec4 correction[kQueries * kDim4];
    if (kResidual != kNoResidual) {
        const uint corrected = p.first_head + head;
        const vec4 weight = residual_weight(corrected);
        uint residual_row[kQueries];
        float scale[kQueries][kSlots];
        vec4 u[kQueries][kFactors];
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            const uint token = token_of(row[t], corrected);
            residual_row[t] = token - p.query_base;
            [[unroll]] for (uint slot = 0; slot < kSlots; ++slot) {
                scale[t][slot] = weight[slot] * residual_scale(residual_row[t], slot, corrected);
            }
            [[unroll]] for (uint k = 0; k < kFactor4; ++k) u[t][k] = load_residual_u(token * kFactor4 + k);
        }
        [[dont_unroll]] for (uint d = 0; d < kDim4; ++d) {
            const uvec4 v = residual_v_rows(corrected, d);
            vec4 stored[kQueries];  // U V^T of D itself, then of the difference
            vec4 difference[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) stored[t] = difference[t] = vec4(0.0);
            [[unroll]] for (uint k = 0; k < kFactor4; ++k) {
                const vec4 a = load_residual_v(v.x + k), b = load_residual_v(v.y + k);
                const vec4 c = load_residual_v(v.z + k), e = load_residual_v(v.w + k);
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const vec4 y = vec4(dot(u[t][k], a), dot(u[t][k], b), dot(u[t][k], c), dot(u[t][k], e));
                    if (k < kDelta4) stored[t] += y; else difference[t] += y;
                }
            }
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                // What has no weight may hold anything, NaN too.
                vec4 y = vec4(0.0);
                if (kResidual == kStoredLowRank) {
                    if (weight.x != 0.0) y += weight.x * stored[t];
                } else {
                    [[unroll]] for (uint slot = 0; slot < kSlots; ++slot) {
                        if (weight[slot] != 0.0) y += scale[t][slot] * residual_codes(residual_row[t], slot, corrected, d);
                    }
                }
                if (kDifference4 > 0 && weight.w != 0.0) y += weight.w * difference[t];
                correction[t * kDim4 + d] = y;
            }
        }
    }
#endif
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        if (query0 + t * kLanes + lane < p.queries) {
            const uint token = token_of(row[t], p.first_head + head);
            uint out_base = out_row(token, row[t], head);
#ifdef BOTH
            if (pass == 0) out_base += p.masked_base;
#endif
#ifdef SUMS
            keep_sum(head, row[t], maximum[t], denominator[t]);
#endif
            // Zero for a query whose list is empty.
            const float normalise = denominator[t] > 0.0 ? 1.0 / denominator[t] : 0.0;
            [[unroll]] for (uint d = 0; d < kDim4; ++d) {
                vec4 y = (t == 0 ? sum0[d] : t == 1 ? sum1[d] : t == 2 ? sum2[d] : sum3[d]) * normalise;
#ifdef CORRECTED
                if (kResidual != kNoResidual) y += correction[t * kDim4 + d];
#endif
                for (uint c = 0; c < 4; ++c) {
                    if (4 * d + c < p.head_dim) out_values[out_base + 4 * d + c] = y[c];
                }
            }
            if (head == gl_NumWorkGroups.y - 1) {
                for (uint c = 0; c < p.pad_to; ++c) out_values[out_base + p.head_dim + c] = 0.0;
            }
        }
    }
#ifdef BOTH
    }
#endif
}
