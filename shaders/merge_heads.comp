// From head-major attention outputs back to token rows, the inverse of split_heads:
//
//   out[t, h head_dim + c] = heads[h, position(t), c] + SSAR correction (residual.glsl, kResidual)
//
// where the position is that of token_order.glsl for heads of type 1 and the token itself for others, or with kPositions
// one that is given. The attention kernel writes rows by itself where all of them can be bound at once, frame 0 is not
// held apart and no positions are given.
//
//   heads  fp32 [heads, token_stride, padded_dim]
//   out    fp32 [rows, out_stride]
//   types  uint32 [heads]; kPositions: uint32 [tokens], the position of each
//
// One work-group per row.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 7) const uint kFrames = 1;
layout(constant_id = 8) const uint kFrame0Apart = 0;
layout(constant_id = 9) const uint kPositions = 0;
layout(constant_id = 10) const uint kTypes = 0;  // without either, heads hold tokens as they stand

layout(set = 0, binding = 0, std430) readonly buffer Heads { float head_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer Types { uint head_types[]; };

layout(push_constant) uniform Push {
    uint heads;        // of this dispatch
    uint first_head;   // `heads` is bound from this one on
    uint head_dim;
    uint padded_dim;
    uint token_stride;
    uint out_stride;
    uint first_row;    // `out` is bound from this row on
    uint places;
    uint text;         // tokens in front of the grid
    uint pad_to;       // columns after the last head's that are set to zero
} p;

#define RESIDUAL_CONSTANT 1
#define RESIDUAL_BINDING 3
#include "residual.glsl"
#include "token_order.glsl"

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint token = p.first_row + row;
    const uint head4 = p.padded_dim / 4;
    for (uint i = gl_LocalInvocationID.x; i < p.heads * head4; i += gl_WorkGroupSize.x) {
        const uint head = p.first_head + i / head4;
        const uint d4 = i % head4;
        const uint position = kPositions != 0 ? head_types[token]
            : kTypes != 0 && head_types[head] != 0 ? position_by_place(token, p.text, kFrames, p.places, kFrame0Apart != 0) : token;
        const uint base = (i / head4 * p.token_stride + position) * p.padded_dim + 4 * d4;
        vec4 y = vec4(head_values[base], head_values[base + 1], head_values[base + 2], head_values[base + 3]);
        if (kResidual != kNoResidual) y += residual_at(row, token, head, d4, residual_weight(head));
        for (uint c = 0; c < 4 && 4 * d4 + c < p.head_dim; ++c) {
            out_values[row * p.out_stride + head * p.head_dim + 4 * d4 + c] = y[c];
        }
    }
    const uint end = row * p.out_stride + (p.first_head + p.heads) * p.head_dim;
    if (gl_LocalInvocationID.x < p.pad_to) out_values[end + gl_LocalInvocationID.x] = 0.0;
}
