// out[t, h*head_dim + c] = softmax_j( scale * q[h,t].k[h,j] + bias[h, j - t] ) v[h,j,c]
//
//   q, k, v  fp32 [heads, *_stride, padded_dim], head-major, padded_dim a multiple of 4
//   bias     fp32 [heads, 2 * bias_span - 1]: by relative position j - t (UMT5), kHasBias
//   out      fp32 [tokens, out_stride], token-major, heads concatenated
//
// Flash attention with a running maximum: one invocation owns one query; keys come in tiles of
// kKeyTile at addresses that are uniform over the work-group. Group x: queries, group y: heads.
// kDim4 = padded_dim / 4 is specialised so that q and the output stay in registers.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kDim4 = 16;
layout(constant_id = 2) const uint kHasBias = 0;
const uint kKeyTile = 8;

layout(set = 0, binding = 0, std430) readonly buffer Q { vec4 q_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer K { vec4 k_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer V { vec4 v_values[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Out { float out_values[]; };
layout(set = 0, binding = 4, std430) readonly buffer Bias { float bias_values[]; };

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
} p;

void main() {
    const uint query = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    const uint head = gl_WorkGroupID.y;
    const uint row = p.query_base + min(query, p.queries - 1);

    vec4 q[kDim4];
    vec4 sum[kDim4];
    [[unroll]] for (uint d = 0; d < kDim4; ++d) {
        q[d] = q_values[(head * p.q_stride + row) * kDim4 + d] * p.scale;
        sum[d] = vec4(0.0);
    }
    float running_max = -3.0e38;
    float denominator = 0.0;

    const uint head_base = head * p.kv_stride;
    for (uint first = 0; first < p.keys; first += kKeyTile) {
        float score[kKeyTile];
        [[unroll]] for (uint j = 0; j < kKeyTile; ++j) score[j] = 0.0;
        for (uint d = 0; d < kDim4; ++d) {
            const vec4 qd = q[d];
            [[unroll]] for (uint j = 0; j < kKeyTile; ++j) {
                const uint key = min(first + j, p.keys - 1);
                score[j] += dot(qd, k_values[(head_base + key) * kDim4 + d]);
            }
        }
        float tile_max = running_max;
        [[unroll]] for (uint j = 0; j < kKeyTile; ++j) {
            const uint key = first + j;
            if (kHasBias != 0) {
                score[j] += bias_values[(p.first_head + head) * (2 * p.bias_span - 1) +
                                        min(key, p.keys - 1) + p.bias_span - 1 - row];
            }
            if (key >= p.keys) score[j] = -3.0e38;
            tile_max = max(tile_max, score[j]);
        }
        const float rescale = exp(running_max - tile_max);
        running_max = tile_max;
        denominator *= rescale;
        [[unroll]] for (uint j = 0; j < kKeyTile; ++j) {
            score[j] = first + j < p.keys ? exp(score[j] - tile_max) : 0.0;
            denominator += score[j];
        }
        for (uint d = 0; d < kDim4; ++d) {
            vec4 s = sum[d] * rescale;
            [[unroll]] for (uint j = 0; j < kKeyTile; ++j) {
                const uint key = min(first + j, p.keys - 1);
                s += score[j] * v_values[(head_base + key) * kDim4 + d];
            }
            sum[d] = s;
        }
    }

    if (query >= p.queries) return;
    const uint out_base = query * p.out_stride + (p.first_head + head) * p.head_dim;
    const float normalise = 1.0 / denominator;
    for (uint c = 0; c < p.head_dim; ++c) out_values[out_base + c] = sum[c / 4][c % 4] * normalise;
    if (head == gl_NumWorkGroups.y - 1) {
        for (uint c = 0; c < p.pad_to; ++c) out_values[out_base + p.head_dim + c] = 0.0;
    }
}
