// out[t, h*head_dim + c] = softmax_j( scale * q[h,t].k[h,j] + bias[h, j - t] ) v[h,j,c]
//
//   q, k, v  fp32 [heads, *_stride, padded_dim], head-major, padded_dim a multiple of 4
//   bias     fp32 [heads, 2 * bias_span - 1]: by relative position j - t (UMT5), kHasBias
//   out      fp32 [tokens, out_stride], token-major, heads concatenated
//
// Sparse (variant SPARSE; the dense one binds less): of query block t / kBlock only the key blocks in its list are visited; blocks marked
// partial are tested pair by pair: |t - j| <= band or j < sink.
//
//   row_ptr    uint32 [lists, query_blocks + 1], counted in entries of columns
//   columns    uint32 key block, bit 31: partial
//   predicate  uint32 [4]: band, sink
//   types      uint32 [heads]: heads of type 1 hold their tokens place by place, (p, f), p F + f (kFrames > 0);
//              out has them frame by frame all the same
//
// With kResidual the SSAR correction (residual.glsl) is added to what is written. With kHeadMajor `out` is
// [heads, q_stride, padded_dim] in the heads' own order, for merge_heads.comp.
//
// Flash attention: a work-group owns kQueries queries of one head and walks over tiles of
// gl_WorkGroupSize.x * kKeysPerLane keys with a running maximum.
//   1. scores: an invocation owns kKeysPerLane keys and computes them against all queries, so that both
//      operands are used kQueries * kKeysPerLane times per load; the scores go to shared memory
//   2. softmax of the tile: invocations share out the queries
//   3. values: an invocation owns every kLanes-th vec4 of the output and all queries
// Group x: query tiles, group y: heads. Everything sized by specialisation constants.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kDim4 = 16;          // padded_dim / 4
layout(constant_id = 2) const uint kHasBias = 0;
layout(constant_id = 3) const uint kLanes = 16;         // the work-group's width again: sizes arrays
layout(constant_id = 4) const uint kQueries = 16;
#ifdef SPARSE
layout(constant_id = 5) const uint kBlock = 64;         // tokens of a block, a multiple of kTile
layout(constant_id = 6) const uint kFrames = 0;
layout(constant_id = 13) const uint kHeadMajor = 0;
#endif
const uint kKeysPerLane = 4;
const uint kTile = kLanes * kKeysPerLane;
const uint kVectors = (kDim4 + kLanes - 1) / kLanes;    // vec4 of the output an invocation owns

layout(set = 0, binding = 0, std430) readonly buffer Q { vec4 q_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { vec4 k_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { vec4 v_values[]; };
#ifdef SPARSE
layout(set = 0, binding = 3, std430) buffer Out { float out_values[]; };
#else
layout(set = 0, binding = 3, std430) writeonly buffer Out { float out_values[]; };
#endif
layout(set = 0, binding = 4, std430) readonly buffer Bias { float bias_values[]; };
#ifdef SPARSE
layout(set = 0, binding = 5, std430) readonly buffer RowPtr { uint row_ptr[]; };
layout(set = 0, binding = 6, std430) readonly buffer Columns { uint columns[]; };
layout(set = 0, binding = 7, std430) readonly buffer Predicate { uint predicate[]; };
layout(set = 0, binding = 8, std430) readonly buffer Types { uint head_types[]; };
#endif

layout(push_constant) uniform Push {
    uint queries;       // of this dispatch; the first is query_base
    uint query_base;    // `out` is bound from this row on
    uint keys;          // keys beyond are masked
    uint q_stride;      // tokens a head
    uint kv_stride;
    uint head_dim;
    uint out_stride;
    uint first_head;    // of `bias` and `out`; q, k and v are bound from this head on
    uint bias_span;
    float scale;
    uint pad_to;        // columns of `out` after the last head's that are set to zero
    uint list_stride;   // of row_ptr from one head to the next; 0: one list for all
    uint places;        // tokens of a frame
} p;

#ifdef SPARSE
#define RESIDUAL_CONSTANT 7
#define RESIDUAL_BINDING 9
#include "residual.glsl"
#endif

const uint kPartial = 0x80000000u;

const float kMasked = -3.0e38;

shared vec4 scores[kQueries][kTile / 4 + 1];  // one more column: rows begin in different banks
shared float rescale[kQueries];
shared float maximum[kQueries];
shared float denominator[kQueries];

/// The token at a position of a head's order.
uint token_of(uint position, uint head) {
#ifdef SPARSE
    if (kFrames > 0 && head_types[head] != 0) return position % kFrames * p.places + position / kFrames;
#endif
    return position;
}

/// Where a head's output of a token begins.
uint out_row(uint token, uint position, uint head) {
#ifdef SPARSE
    if (kHeadMajor != 0) return (head * p.q_stride + position) * 4 * kDim4;
#endif
    return (token - p.query_base) * p.out_stride + (p.first_head + head) * p.head_dim;
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint query0 = gl_WorkGroupID.x * kQueries;
    const uint last_row = p.query_base + p.queries - 1;
    const uint row0 = p.query_base + query0;
    const uint q_head = head * p.q_stride;
    const uint kv_head = head * p.kv_stride;

    vec4 sum[kQueries][kVectors];
    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        [[unroll]] for (uint i = 0; i < kVectors; ++i) sum[t][i] = vec4(0.0);
    }
    for (uint t = lane; t < kQueries; t += kLanes) {
        maximum[t] = kMasked;
        denominator[t] = 0.0;
    }

#ifdef SPARSE
    const uint list = (p.first_head + head) * p.list_stride + row0 / kBlock;
    const uint entry = row_ptr[list];
    const uint per_block = kBlock / kTile;
    const uint tiles = (row_ptr[list + 1] - entry) * per_block;
#else
    const uint tiles = (p.keys + kTile - 1) / kTile;
#endif
    for (uint tile = 0; tile < tiles; ++tile) {
#ifdef SPARSE
        const uint block = columns[entry + tile / per_block];
        const bool partial = (block & kPartial) != 0;
        const uint first = (block & ~kPartial) * kBlock + tile % per_block * kTile;
        if (first >= p.keys) continue;  // the tail of the last block
#else
        const uint first = tile * kTile;
#endif
        {
            const uint key0 = first + lane * kKeysPerLane;
            const uint last = p.keys - 1;
            const uint k0 = (kv_head + min(key0, last)) * kDim4;
            const uint k1 = (kv_head + min(key0 + 1, last)) * kDim4;
            const uint k2 = (kv_head + min(key0 + 2, last)) * kDim4;
            const uint k3 = (kv_head + min(key0 + 3, last)) * kDim4;
            vec4 score[kQueries];
            [[unroll]] for (uint t = 0; t < kQueries; ++t) score[t] = vec4(0.0);
            for (uint d = 0; d < kDim4; ++d) {
                const vec4 a = k_values[k0 + d];
                const vec4 b = k_values[k1 + d];
                const vec4 c = k_values[k2 + d];
                const vec4 e = k_values[k3 + d];
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const vec4 q = q_values[(q_head + min(row0 + t, last_row)) * kDim4 + d];
                    score[t] += vec4(dot(q, a), dot(q, b), dot(q, c), dot(q, e));
                }
            }
            [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                vec4 s = score[t] * p.scale;
                if (kHasBias != 0) {
                    const uint base = (p.first_head + head) * (2 * p.bias_span - 1) +
                                      p.bias_span - 1 - min(row0 + t, last_row);
                    s += vec4(bias_values[base + min(key0, last)], bias_values[base + min(key0 + 1, last)],
                              bias_values[base + min(key0 + 2, last)],
                              bias_values[base + min(key0 + 3, last)]);
                }
#ifdef SPARSE
                if (partial) {
                    const uvec4 key = uvec4(key0, key0 + 1, key0 + 2, key0 + 3);
                    const ivec4 distance = abs(ivec4(key) - int(min(row0 + t, last_row)));
                    const bvec4 near = lessThanEqual(distance, ivec4(predicate[0]));
                    const bvec4 sunk = lessThan(key, uvec4(predicate[1]));
                    s = mix(vec4(kMasked), s, bvec4(near.x || sunk.x, near.y || sunk.y, near.z || sunk.z,
                                                    near.w || sunk.w));
                }
#endif
                scores[t][lane] = mix(vec4(kMasked), s,
                                      lessThan(uvec4(key0, key0 + 1, key0 + 2, key0 + 3), uvec4(p.keys)));
            }
        }
        barrier();
        for (uint t = lane; t < kQueries; t += kLanes) {
            vec4 largest = scores[t][0];
            for (uint j = 1; j < kLanes; ++j) largest = max(largest, scores[t][j]);
            const float before = maximum[t];
            const float now =
                max(before, max(max(largest.x, largest.y), max(largest.z, largest.w)));
            vec4 total = vec4(0.0);
            for (uint j = 0; j < kLanes; ++j) {
                const vec4 e = exp(scores[t][j] - now);
                scores[t][j] = e;
                total += e;
            }
            const float factor = exp(before - now);
            maximum[t] = now;
            rescale[t] = factor;
            denominator[t] = denominator[t] * factor + total.x + total.y + total.z + total.w;
        }
        barrier();
        const uint tile_keys = min(kTile, p.keys - first);
        [[unroll]] for (uint i = 0; i < kVectors; ++i) {
            const uint d = min(i * kLanes + lane, kDim4 - 1);
            [[unroll]] for (uint t = 0; t < kQueries; ++t) sum[t][i] *= rescale[t];
            for (uint j = 0; j < tile_keys; j += 4) {
                // Keys past the end have probability zero; their values are those of the last key.
                const uint last = p.keys - 1;
                const vec4 v0 = v_values[(kv_head + first + j) * kDim4 + d];
                const vec4 v1 = v_values[(kv_head + min(first + j + 1, last)) * kDim4 + d];
                const vec4 v2 = v_values[(kv_head + min(first + j + 2, last)) * kDim4 + d];
                const vec4 v3 = v_values[(kv_head + min(first + j + 3, last)) * kDim4 + d];
                [[unroll]] for (uint t = 0; t < kQueries; ++t) {
                    const vec4 e = scores[t][j / 4];
                    sum[t][i] += e.x * v0 + e.y * v1 + e.z * v2 + e.w * v3;
                }
            }
        }
        barrier();
    }

    [[unroll]] for (uint t = 0; t < kQueries; ++t) {
        if (query0 + t < p.queries) {
            const uint token = token_of(row0 + t, p.first_head + head);
            const uint out_base = out_row(token, row0 + t, head);
            const float normalise = 1.0 / denominator[t];
            [[unroll]] for (uint i = 0; i < kVectors; ++i) {
                const vec4 y = sum[t][i] * normalise;
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
#ifdef SPARSE
    if (kResidual == kNoResidual) return;
    // A loop of its own over what this invocation has just written: unrolled into the one above, the
    // correction's code is there kQueries * kVectors times, and llvmpipe compiled it for 16 s.
    for (uint n = lane; n < kQueries * kVectors * kLanes; n += kLanes) {
        const uint t = n / (kVectors * kLanes);
        const uint d4 = n % (kVectors * kLanes);
        if (query0 + t >= p.queries || d4 >= kDim4) continue;
        const uint token = token_of(row0 + t, p.first_head + head);
        const uint out_base = out_row(token, row0 + t, head);
        const vec4 y = residual_at(token - p.query_base, token, p.first_head + head, d4);
        for (uint c = 0; c < 4; ++c) {
            if (4 * d4 + c < p.head_dim) out_values[out_base + 4 * d4 + c] += y[c];
        }
    }
#endif
}
