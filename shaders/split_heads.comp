// From token-major rows to head-major attention operands, with what Wan does to q and k on the way:
//
//   y = x * rsqrt(mean(x^2) + eps) * weight     kNorm: RMS norm over all heads together (wan fact 6)
//   (y[2i], y[2i+1]) rotated by its angle       kRope: adjacent pairs, 3 axes (wan fact 7)
//   out[head, token, c] = y[head * head_dim + c]
//
//   in     fp32 [tokens, in_stride]
//   out    fp32 [heads, token_stride, padded_dim]; columns head_dim .. padded_dim-1 are set to zero
//   table  (cos, sin) [positions, head_dim / 2]: angle(position, pair), built in fp64 on the host
//
// Heads of type 1 (kFrames > 0) are written place by place instead of frame by frame (token_order.glsl). With kPositions
// all heads are in an order of tokens that is given.
//
//   types  uint32 [heads]: 0 spatial, 1 temporal; kPositions: uint32 [tokens], the position of each
//
// One work-group per token. The token's grid position is (frame, row, column) of a grid whose rows
// and columns are in the push constants; which axis a pair turns by follows from its index.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "split_heads.glsl"

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer Weight { float weight[]; };
layout(set = 0, binding = 3, std430) readonly buffer Table { vec2 table[]; };
layout(set = 0, binding = 4, std430) readonly buffer Types { uint head_types[]; };

#include "reduce.glsl"
#include "token_order.glsl"

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint token = p.token_base + row;
    const uint base = row * p.in_stride;
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;

    float inverse = 1.0;
    if (kNorm != 0) {
        float squares = 0.0;
        for (uint i = lane; i < p.columns; i += lanes) {
            squares += in_values[base + i] * in_values[base + i];
        }
        inverse = 1.0 / sqrt(workgroup_sum(squares) / float(p.columns) + p.eps);
    }

    const uint frame = token / (p.grid_rows * p.grid_columns);
    const uint in_frame = token % (p.grid_rows * p.grid_columns);
    const uint pairs = p.padded_dim / 2;
    for (uint i = lane; i < p.heads * pairs; i += lanes) {
        const uint head = i / pairs;
        const uint pair = i % pairs;
        const bool temporal = kFrames > 0 && head_types[p.first_head + head] != 0;
        if (kOnlyTemporal != 0 && !temporal) continue;
        vec2 y = vec2(0.0);
        for (uint side = 0; side < 2; ++side) {
            const uint c = 2 * pair + side;
            if (c < p.head_dim) {
                const uint column = (p.first_head + head) * p.head_dim + c;
                y[side] = in_values[base + column] * inverse;
                if (kNorm != 0) y[side] *= weight[column];
            }
        }
        if (kRope != 0 && 2 * pair + 1 < p.head_dim) {
            const uint position = pair < p.pairs_time ? frame
                : pair < p.pairs_time + p.pairs_row ? in_frame / p.grid_columns
                : in_frame % p.grid_columns;
            const vec2 angle = table[position * (p.head_dim / 2) + pair];
            y = vec2(y.x * angle.x - y.y * angle.y, y.x * angle.y + y.y * angle.x);
        }
        const uint position_out =
            temporal ? position_by_place(token, p.text, kFrames, p.places, kFrame0Apart != 0)
                     : kPositions != 0 ? head_types[token] : token;
        const uint out_base = (head * p.token_stride + position_out) * p.padded_dim + 2 * pair;
        out_values[out_base] = y.x;
        out_values[out_base + 1] = y.y;
    }
}
