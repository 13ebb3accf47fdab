// out[t, h*head_dim + c] = softmax_j( scale * q[h,t].k[h,j] + bias[h, j - t] ) v[h,j,c]
//
//   q, k, v  fp32 [heads, *_stride, padded_dim], head-major, padded_dim a multiple of 4
//   bias     fp32 [heads, 2 * bias_span - 1]: by relative position j - t (UMT5), kHasBias
//   out      fp32 [tokens, out_stride], token-major, heads concatenated
//
// Sparse (variant SPARSE; the dense one binds less): of query block t / kBlock only the key blocks in its list are
// visited; blocks marked partial are tested pair by pair, against the keys that query t sees: a range, a prefix and
// a suffix.
//
//   row_ptr    uint32 [lists, query_blocks + 1], counted in entries of columns
//   columns    uint32 key block, bit 31: partial, bits 20 to 27: what of it nobody looks at (kernels/attention.hpp)
//   sight      uint32 [1 + tokens, 2]: end of the prefix and begin of the suffix, then each query's range
//   types      uint32 [heads]: heads of type 1 hold their tokens place by place, (p, f), p F + f (kOrdered);
//              out has them frame by frame all the same
//
// Variant BOTH: under the mask and over all keys at once (attention_walk.glsl).
//
// With kResidual the SSAR correction (residual.glsl) is added to what is written. With kHeadMajor `out` is
// [heads, q_stride, padded_dim] in the heads' own order, for merge_heads.comp.
//
// Variant SUMS: with each query's denominator (attention_sums.glsl). Variant TAIL: more is added to what is there
// (attention_tail.glsl).
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

const uint kKeysPerLane = 4;
const uint kTile = kLanes * kKeysPerLane;
const uint kVectors = (kDim4 + kLanes - 1) / kLanes;    // vec4 of the output an invocation owns
const uint kParts = kLanes / kQueries;                  // kLanes is a multiple of kQueries
const uint kPart = kLanes / kParts;                     // fours of a tile's keys

layout(constant_id = 15) const uint kTeams = 1;

shared vec4 scores[kTeams * kQueries][kLanes + 1];  // one more column: rows begin in different banks
shared float rescale[kTeams * kQueries];
shared float partial_values[kTeams * kQueries][kParts];

#include "attention_sums.glsl"
#ifdef TAIL
#include "attention_tail.glsl"
#else
#include "attention_walk.glsl"
#endif
#ifdef INT8
#include "attention_tile_int8.glsl"
#else
#include "attention_tile_f32.glsl"
#endif

void main() {
    const uint lane = gl_LocalInvocationID.x % kLanes;
    const uint team = gl_LocalInvocationID.x / kLanes;
    const uint own = team * kQueries;  // the team's first row of what is shared
    const uint head = gl_WorkGroupID.y;
    const uint query0 = (gl_WorkGroupID.x * kTeams + team) * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint row0 = p.query_base + query0;

    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        [[unroll]] for (uint i = 0; i < kVectors; ++i) sum[t][i] = vec4(0.0);
    }
    // Of the query whose softmax this invocation shares: its maximum, and its own part of the denominator.
    const uint softmax_row = own + lane % kQueries;
    const uint part = lane / kQueries;
    const uint softmax_query = lane % kQueries;
    float maximum = kMasked;
    float denominator = 0.0;
#ifdef TAIL
    maximum = largest_so_far(head, min(row0 + softmax_query, last_row));
    denominator = part == 0 ? 1.0 : 0.0;
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        [[unroll]] for (uint i = 0; i < kVectors; ++i) {
            sum[t][i] = output_so_far(head, min(row0 + t, last_row), min(i * kLanes + lane, kDim4 - 1));
        }
    }
#endif

    FOR_EACH_PASS {
        const uint tiles = begin_pass(head, pass);
        for (uint tile = 0; tile < tiles; ++tile) {
            uint first;
            bool partial;
            if (!find_tile(tile, first, partial)) continue;
            const uint key0 = first + lane * kKeysPerLane;
            multiply_keys(head, key0, row0, last_row);
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                const uint row = min(row0 + t, last_row);
                const vec4 s = scaled_score(t, head, row, key0);
#ifdef TAIL
                keep_scores(own + t, lane, s, key0, row, head);
#else
                const uvec4 range = partial ? load_sight(row) : uvec4(0);
                keep_scores(own + t, lane, s, key0, partial, range, pass);
#endif
            }
            barrier();
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
            const vec4 total = exponentials(softmax_row, begin, now);
            const float factor = exp(maximum - now);
            maximum = now;
            denominator = denominator * factor + total.x + total.y + total.z + total.w;
            if (part == 0) rescale[softmax_row] = factor;
            barrier();
            const uint tile_keys = min(kTile, p.keys - first);
            [[unroll]] for (uint i = 0; i < kVectors; ++i) {
                [[unroll]] for (uint t = 0; t < kQueries; ++t) sum[t][i] *= rescale[own + t];
                add_tile(i, min(i * kLanes + lane, kDim4 - 1), own, head * p.kv_stride, first, tile_keys);
            }
            barrier();
        }

        partial_values[softmax_row][part] = denominator;
        barrier();
#ifdef SUMS
        if (part == 0 && query0 + softmax_query < p.queries) {
            float whole = 0.0;
            for (uint i = 0; i < kParts; ++i) whole += partial_values[softmax_row][i];
            keep_sum(head, row0 + softmax_query, maximum, whole);
        }
#endif
        [[unroll]] for (uint t = 0; t < kQueries; ++t) {
            if (query0 + t < p.queries) {
                const uint token = token_of(row0 + t, p.first_head + head);
                const uint out_base = out_row(token, row0 + t, head) + base_of_pass(pass);
                float whole = 0.0;
                for (uint i = 0; i < kParts; ++i) whole += partial_values[own + t][i];
                const float normalise = normaliser(whole);
                [[unroll]] for (uint i = 0; i < kVectors; ++i) {
                    const vec4 y = output_of(sum[t][i], normalise, head, min(i * kLanes + lane, kDim4 - 1));
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
        end_pass();
    }
    add_correction(lane, head, query0);
}
