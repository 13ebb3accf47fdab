// The same as attention.comp, for drivers where loads and shared memory are dear and registers spill to a
// fast stack (CPU drivers): an invocation keeps kQueries queries and their outputs to itself and walks over
// the keys four at a time with running maxima of its own. Each key and value that is loaded serves
// kQueries queries of every lane; there is no shared memory and no barrier.
//
// Bindings, masks and outputs: attention.comp. Group x: kLanes * kQueries queries, group y: heads.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

const uint kTile = 4;
#include "attention.glsl"

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint query0 = gl_WorkGroupID.x * kLanes * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;

    uint row[kQueries];  // those past the end repeat the last one, unwritten
    uvec4 sees[kQueries];  // read once: loads are dear in the loop over the keys
    vec4 q[kQueries][kDim4];
    vec4 sum[kQueries][kDim4];
    float maximum[kQueries];
    float denominator[kQueries];
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        row[t] = min(p.query_base + query0 + t * kLanes + lane, last_row);
        sees[t] = load_sight(row[t]);
        maximum[t] = kMasked;
        denominator[t] = 0.0;
        [[unroll]] for (uint d = 0; d < kDim4; ++d) {
            q[t][d] = load_q((q_head + row[t]) * kDim4 + d) * p.scale;
            sum[t][d] = vec4(0.0);
        }
    }

#ifdef SPARSE
    const uint list = (p.first_head + head) * p.list_stride + (p.query_base + query0) / kBlock;
    const uint entry_end = row_ptr[list + 1];
    for (uint entry = row_ptr[list]; entry < entry_end; ++entry) {
    const uint block = columns[entry];
    const bool partial = (block & kPartial) != 0;
    const uint begin = (block & ~kPartial) * kBlock;
    const uint end = min(begin + kBlock, p.keys);
#else
    const bool partial = false;
    const uint begin = 0;
    const uint end = p.keys;
#endif
    for (uint first = begin; first < end; first += kTile) {
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
        float factor[kQueries];
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            vec4 s = score[t];
            if (kHasBias != 0) s += position_bias(head, row[t], first);
            s = masked_scores(s, first, partial, sees[t]);
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
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                const vec4 e = score[t];
                sum[t][d] = sum[t][d] * factor[t] + e.x * v0 + e.y * v1 + e.z * v2 + e.w * v3;
            }
        }
    }
#ifdef SPARSE
    }
#endif

    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        if (query0 + t * kLanes + lane < p.queries) {
            const uint token = token_of(row[t], p.first_head + head);
            const uint out_base = out_row(token, row[t], head);
            // Zero for a query whose list is empty.
            const float normalise = denominator[t] > 0.0 ? 1.0 / denominator[t] : 0.0;
            [[unroll]] for (uint d = 0; d < kDim4; ++d) {
                const vec4 y = sum[t][d] * normalise;
                for (uint c = 0; c < 4; ++c) {
                    if (4 * d + c < p.head_dim) out_values[out_base + 4 * d + c] = y[c];
                }
            }
            if (head == gl_NumWorkGroups.y - 1) {
                for (uint c = 0; c < p.pad_to; ++c) out_values[out_base + p.head_dim + c] = 0.0;
            }
        }
    }
#ifdef SPARSE
    if (kResidual == kNoResidual) return;
    const vec4 weight = residual_weight(p.first_head + head);
    for (uint n = 0; n < kQueries * kDim4; ++n) {
        const uint t = n / kDim4;
        const uint d4 = n % kDim4;
        const uint query = query0 + t * kLanes + lane;
        if (query >= p.queries) continue;
        const uint token = token_of(p.query_base + query, p.first_head + head);
        const uint out_base = out_row(token, p.query_base + query, head);
        const vec4 y = residual_at(token - p.query_base, token, p.first_head + head, d4, weight);
        for (uint c = 0; c < 4; ++c) {
            if (4 * d4 + c < p.head_dim) out_values[out_base + 4 * d4 + c] += y[c];
        }
    }
#endif
}
