// partial[chunk, i, j] = sum over the rows t of a chunk of A[t, i] B[t, j]: the first stage of A^T B for
// tall A and B (Gram matrices, X^T Y). low_rank_sum.comp adds the chunks, in order.
//
//   A        fp32 [rows, a_stride]
//   B        fp32 [rows, b_stride]
//   partial  fp32 [chunks, 4 a4, b_stride]
//
// One invocation: four columns of A by 4 kVectors columns of B. Group x: columns of A, y: chunks, z:
// columns of B.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "loads.glsl"

const uint kVectors = 2;

LOADABLE(a, 0)
LOADABLE(b, 1)
layout(set = 0, binding = 2, std430) writeonly buffer Partial { vec4 partials[]; };

layout(push_constant) uniform Push {
    uint rows;         // of this dispatch
    uint chunk_rows;
    uint a4;           // columns of A in fours
    uint b4;
    uint a_stride4;
    uint b_stride4;
    uint first_chunk;
} p;

void main() {
    const uint i4 = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    const uint j0 = gl_WorkGroupID.z * kVectors;
    const uint column = min(i4, p.a4 - 1);  // lanes past the end repeat the last column, unwritten
    const uint begin = gl_WorkGroupID.y * p.chunk_rows;
    const uint end = min(begin + p.chunk_rows, p.rows);
    vec4 sum[4][kVectors];
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        [[unroll]] for (uint j = 0; j < kVectors; ++j) sum[c][j] = vec4(0.0);
    }
    for (uint t = begin; t < end; ++t) {
        const vec4 a = load_a(t * p.a_stride4 + column);
        [[unroll]] for (uint j = 0; j < kVectors; ++j) {
            const vec4 b = load_b(t * p.b_stride4 + min(j0 + j, p.b4 - 1));
            [[unroll]] for (uint c = 0; c < 4; ++c) sum[c][j] += a[c] * b;
        }
    }
    if (i4 >= p.a4) return;
    const uint chunk = p.first_chunk + gl_WorkGroupID.y;
    [[unroll]] for (uint c = 0; c < 4; ++c) {
        [[unroll]] for (uint j = 0; j < kVectors; ++j) {
            if (j0 + j < p.b4) partials[((chunk * p.a4 + i4) * 4 + c) * p.b4 + j0 + j] = sum[c][j];
        }
    }
}
