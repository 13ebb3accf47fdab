// out[t, h*head_dim + c] = softmax_j( scale * q[h,t].k[h,j] + bias[h, j - t] ) v[h,j,c]
//
//   q, k, v  fp32 [heads, *_stride, padded_dim], head-major, padded_dim a multiple of 4
//   bias     fp32 [heads, 2 * bias_span - 1]: by relative position j - t (UMT5), kHasBias
//   out      fp32 [tokens, out_stride], token-major, heads concatenated
//
// Sparse (variant SPARSE; the dense one binds less): of query block t / kBlock only the key blocks in its list are visited; blocks marked
// partial are tested pair by pair, against the keys that query t sees: a range, a prefix and a suffix.
//
//   row_ptr    uint32 [lists, query_blocks + 1], counted in entries of columns
//   columns    uint32 key block, bit 31: partial, bits 20 to 27: what of it nobody looks at (kernels/attention.hpp)
//   sight      uint32 [1 + tokens, 2]: end of the prefix and begin of the suffix, then each query's range
//   types      uint32 [heads]: heads of type 1 hold their tokens place by place, (p, f), p F + f (kOrdered);
//              out has them frame by frame all the same
//
// Variant BOTH: under the mask and over all keys at once (attention_both.glsl).
//
// With kResidual the SSAR correction (residual.glsl) is added to what is written. With kHeadMajor `out` is
// [heads, q_stride, padded_dim] in the heads' own order, for merge_heads.comp.
//
// Variant INT8: q, k and perhaps v are codes of eight bits (attention_codes.glsl describes them and the arithmetic).
//
// Flash attention: a team of kLanes invocations owns kQueries queries of one head and walks over tiles of
// kLanes * kKeysPerLane keys with running maxima. A work-group is kTeams teams, which fill the device's
// subgroup, read the same keys and lie in one block of queries.
//   1. scores: an invocation owns kKeysPerLane keys and computes them against all queries, so that both
//      operands are used kQueries * kKeysPerLane times per load; the scores go to shared memory
//   2. softmax of the tile: kParts invocations for each query, a part of the tile's keys each
//   3. values: an invocation owns every kLanes-th vec4 of the output and all queries
// Group x: query tiles, group y: heads. Everything sized by specialisation constants.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef TIER_DOT
#extension GL_EXT_spirv_intrinsics : require
#endif
#include "constants.glsl"

#ifdef INT8
#include "attention_codes.glsl"  // and attention.glsl
#else
#include "attention.glsl"
#endif
#ifdef BOTH
#include "attention_both.glsl"
#endif

const uint kKeysPerLane = 4;
const uint kTile = kLanes * kKeysPerLane;
const uint kVectors = (kDim4 + kLanes - 1) / kLanes;    // vec4 of the output an invocation owns
const uint kParts = kLanes / kQueries;                  // kLanes is a multiple of kQueries
const uint kPart = kLanes / kParts;                     // fours of a tile's keys

layout(constant_id = 15) const uint kTeams = 1;

shared vec4 scores[kTeams * kQueries][kLanes + 1];  // one more column: rows begin in different banks
shared float rescale[kTeams * kQueries];
shared float partial_values[kTeams * kQueries][kParts];
#ifdef INT8
// Codes of a tile's probabilities, 16 keys an element.
shared uvec4 probabilities[kCodedValues != 0 ? kTeams * kQueries : 1][kLanes / 4 + 1];
#endif

void main() {
    const uint lane = gl_LocalInvocationID.x % kLanes;
    const uint team = gl_LocalInvocationID.x / kLanes;
    const uint own = team * kQueries;  // the team's first row of what is shared
    const uint head = gl_WorkGroupID.y;
    const uint query0 = (gl_WorkGroupID.x * kTeams + team) * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint row0 = p.query_base + query0;
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;

    vec4 sum[kQueries][kVectors];
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        [[unroll]] for (uint i = 0; i < kVectors; ++i) sum[t][i] = vec4(0.0);
    }
    // Of the query whose softmax this invocation shares: its maximum, and its own part of the denominator.
    const uint softmax_row = own + lane % kQueries;
    const uint part = lane / kQueries;
    float maximum = kMasked;
    float denominator = 0.0;

#ifdef SPARSE
    // Teams whose queries are past the end go along with the group's first, which is not.
    uint list = (p.first_head + head) * p.list_stride +
                (p.query_base + gl_WorkGroupID.x * kTeams * kQueries) / kBlock;
#ifdef BOTH
    list *= 2;
    [[dont_unroll]] for (uint pass = 0; pass < 2; ++pass, ++list) {
#endif
    const uint entry = row_ptr[list];
    const uint per_block = kBlock / kTile;
    const uint tiles = (row_ptr[list + 1] - entry) * per_block;
#else
    const uint tiles = (p.keys + kTile - 1) / kTile;
#endif
    for (uint tile = 0; tile < tiles; ++tile) {
#ifdef SPARSE
        const uint listed = columns[entry + tile / per_block];
        const bool partial = (listed & kPartial) != 0;
        const uint first = block_of(listed) * kBlock + tile % per_block * kTile;
        if (first >= p.keys) continue;  // the tail of the last block
        if (per_block > 1) {
            const uvec2 range = keys_of(listed, 1);
            if (first + kTile <= range.x || first >= range.y) continue;
        }
#else
        const uint first = tile * kTile;
#endif
        {
            const uint key0 = first + lane * kKeysPerLane;
            const uint last = p.keys - 1;
#ifdef INT8
            const uint k0 = (kv_head + min(key0, last)) * kDim16;
            const uint k1 = (kv_head + min(key0 + 1, last)) * kDim16;
            const uint k2 = (kv_head + min(key0 + 2, last)) * kDim16;
            const uint k3 = (kv_head + min(key0 + 3, last)) * kDim16;
            ACCUMULATOR4 products[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) products[t] = ACCUMULATOR4(0);
            [[dont_unroll]] for (uint d = 0; d < kDim16; ++d) {
                const Codes16 a = codes16(k_words[k0 + d]);
                const Codes16 b = codes16(k_words[k1 + d]);
                const Codes16 c = codes16(k_words[k2 + d]);
                const Codes16 e = codes16(k_words[k3 + d]);
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const Codes16 q = codes16(q_words[(q_head + min(row0 + t, last_row)) * kDim16 + d]);
                    products[t].x = accumulate16(q, a, products[t].x);
                    products[t].y = accumulate16(q, b, products[t].y);
                    products[t].z = accumulate16(q, c, products[t].z);
                    products[t].w = accumulate16(q, e, products[t].w);
                }
            }
            const float k_scale = key_scale(head, min(key0, last));
            vec4 score[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                score[t] = vec4(products[t]) * (query_scale(head, min(row0 + t, last_row)) * k_scale);
            }
#else
            const uint k0 = (kv_head + min(key0, last)) * kDim4;
            const uint k1 = (kv_head + min(key0 + 1, last)) * kDim4;
            const uint k2 = (kv_head + min(key0 + 2, last)) * kDim4;
            const uint k3 = (kv_head + min(key0 + 3, last)) * kDim4;
            vec4 score[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) score[t] = vec4(0.0);
            [[dont_unroll]] for (uint d = 0; d < kDim4; ++d) {
                const vec4 a = load_k(k0 + d);
                const vec4 b = load_k(k1 + d);
                const vec4 c = load_k(k2 + d);
                const vec4 e = load_k(k3 + d);
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const vec4 q = load_q((q_head + min(row0 + t, last_row)) * kDim4 + d);
                    score[t] += vec4(dot(q, a), dot(q, b), dot(q, c), dot(q, e));
                }
            }
#endif
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
#ifdef INT8
                const vec4 s = score[t];
#else
                vec4 s = score[t] * p.scale;
#endif
                const uint row = min(row0 + t, last_row);
#ifndef INT8
                if (kHasBias != 0) s += position_bias(head, row, key0);
#endif
#ifndef SPARSE
                const bool partial = false;
#endif
                const uvec4 sees = partial ? load_sight(row) : uvec4(0);
#ifdef BOTH
                if (partial && pass != 0) {
                    scores[own + t][lane] = unseen_scores(s, key0, sees);
                } else
#endif
                scores[own + t][lane] = masked_scores(s, key0, partial, sees);
            }
        }
        barrier();
        {
            // Not unrolled: compilers would keep all of the row in registers.
            const uint begin = part * kPart;
            vec4 largest = scores[softmax_row][begin];
            [[dont_unroll]] for (uint j = begin + 1; j < begin + kPart; ++j) {
                largest = max(largest, scores[softmax_row][j]);
            }
            float now = max(maximum, max(max(largest.x, largest.y), max(largest.z, largest.w)));
            if (kParts > 1) {
                partial_values[softmax_row][part] = now;
                barrier();
                for (uint i = 0; i < kParts; ++i) now = max(now, partial_values[softmax_row][i]);
            }
            vec4 total = vec4(0.0);
#ifdef INT8
            if (kCodedValues != 0) {
                // The codes are summed, not what was rounded: weights add up to one. A part is kQueries fours, so
                // whole elements.
                [[dont_unroll]] for (uint j = begin; j < begin + kPart; j += 4) {
                    uvec4 words;
                    [[unroll]] for (uint i = 0; i < 4; ++i) {
                        const vec4 e = roundEven(127.0 * exp(scores[softmax_row][j + i] - now));
                        words[i] = packed(e);
                        total += e;
                    }
                    probabilities[softmax_row][j / 4] = words;
                }
            } else
#endif
            [[dont_unroll]] for (uint j = begin; j < begin + kPart; ++j) {
                const vec4 e = exp(scores[softmax_row][j] - now);
                scores[softmax_row][j] = e;
                total += e;
            }
            const float factor = exp(maximum - now);
            maximum = now;
            denominator = denominator * factor + total.x + total.y + total.z + total.w;
            if (part == 0) rescale[softmax_row] = factor;
        }
        barrier();
        const uint tile_keys = min(kTile, p.keys - first);
        [[unroll]] for (uint i = 0; i < kVectors; ++i) {
            const uint d = min(i * kLanes + lane, kDim4 - 1);
            [[unroll]] for (uint t = 0; t < kQueries; ++t) sum[t][i] *= rescale[own + t];
#ifdef INT8
            if (kCodedValues != 0) {
                ACCUMULATOR4 products[kQueries];
                [[unroll]] for (uint t = 0; t < kQueries; ++t) products[t] = ACCUMULATOR4(0);
                // Keys past the end have probability zero, and codes up to a multiple of 16.
                [[dont_unroll]] for (uint j = 0; j < tile_keys; j += 16) {
                    const ValueCodes values = load_values(kv_head + first + j, d);
                    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                        products[t] = add_values(codes16(probabilities[own + t][j / 16]), values, products[t]);
                    }
                }
                [[unroll]] for (uint t = 0; t < kQueries; ++t) sum[t][i] += vec4(products[t]);
            } else
#endif
            for (uint j = 0; j < tile_keys; j += 4) {
                // Keys past the end have probability zero; their values are those of the last key.
                const uint last = p.keys - 1;
                const vec4 v0 = load_v((kv_head + first + j) * kDim4 + d);
                const vec4 v1 = load_v((kv_head + min(first + j + 1, last)) * kDim4 + d);
                const vec4 v2 = load_v((kv_head + min(first + j + 2, last)) * kDim4 + d);
                const vec4 v3 = load_v((kv_head + min(first + j + 3, last)) * kDim4 + d);
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const vec4 e = scores[own + t][j / 4];
                    sum[t][i] += e.x * v0 + e.y * v1 + e.z * v2 + e.w * v3;
                }
            }
        }
        barrier();
    }

    partial_values[softmax_row][part] = denominator;
    barrier();
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        if (query0 + t < p.queries) {
            const uint token = token_of(row0 + t, p.first_head + head);
            uint out_base = out_row(token, row0 + t, head);
#ifdef BOTH
            if (pass == 0) out_base += p.masked_base;
#endif
            // Zero for a query whose list is empty.
            float whole = 0.0;
            for (uint i = 0; i < kParts; ++i) whole += partial_values[own + t][i];
#ifdef INT8
            // Codes lose a NaN, which shows here: as itself, or as the infinity that some drivers' exp makes of it.
            const float normalise = whole > 0.0 && whole < 1.0e30 ? 1.0 / whole : whole;
#else
            const float normalise = whole > 0.0 ? 1.0 / whole : 0.0;
#endif
            [[unroll]] for (uint i = 0; i < kVectors; ++i) {
#ifdef INT8
                const vec4 y = sum[t][i] * normalise * value_scale(head, min(i * kLanes + lane, kDim4 - 1));
#else
                const vec4 y = sum[t][i] * normalise;
#endif
                const uint column = 4 * (i * kLanes + lane);
                for (uint c = 0; c < 4; ++c) {
                    if (column + c < p.head_dim) out_values[out_base + column + c] = y[c];
                }
            }
            if (head == gl_NumWorkGroups.y - 1 && lane < p.pad_to) {
                out_values[out_base + p.head_dim + lane] = 0.0;
            }
        }
    }
#ifdef BOTH
    barrier();  // the next pass writes what was read above
    }
#elif defined(SPARSE)
    if (kResidual == kNoResidual) return;
    // A loop of its own over what this invocation has just written: unrolled into the one above, the
    // correction's code is there kQueries * kVectors times, and llvmpipe compiled it for 16 s.
    const vec4 weight = residual_weight(p.first_head + head);
    for (uint n = lane; n < kQueries * kVectors * kLanes; n += kLanes) {
        const uint t = n / (kVectors * kLanes);
        const uint d4 = n % (kVectors * kLanes);
        if (query0 + t >= p.queries || d4 >= kDim4) continue;
        const uint token = token_of(row0 + t, p.first_head + head);
        const uint out_base = out_row(token, row0 + t, head);
        const vec4 y = residual_at(token - p.query_base, token, p.first_head + head, d4, weight);
        for (uint c = 0; c < 4; ++c) {
            if (4 * d4 + c < p.head_dim) out_values[out_base + 4 * d4 + c] += y[c];
        }
    }
#endif
}
