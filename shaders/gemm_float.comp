// out[m, n] = epilogue( sum_k A[m, k] * B[k, n] ), fp32 accumulation.
//
//   A        fp32 [M, a_stride], row-major, columns K .. 4*ceil(K/4)-1 hold zeros
//   B        [K, N], row-major, b_stride columns a row (a multiple of 4): fp32, or (WEIGHT_HALF) two
//            halves a word. A weight [N, K] of a checkpoint is transposed when it is loaded.
//   out      fp32 [M, out_stride]; columns up to 4*ceil(N/4) are written (zeros when B's are zero)
//
// One invocation computes kRows rows by 4 neighbouring columns. Rows of A are read at addresses that
// are uniform over the work-group (scalar loads on GPUs, broadcasts on CPU drivers); B is read
// coalesced. No shared memory. Group x: columns, group y: rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "loads.glsl"

layout(constant_id = 1) const uint kRows = 8;

LOADABLE(a, 0)
#ifdef WEIGHT_HALF
LOADABLE_HALVES(b, 1)
#else
LOADABLE(b, 1)
#endif
layout(set = 0, binding = 2, std430) writeonly buffer Out { vec4 out_values[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { vec4 bias_values[]; };
layout(set = 0, binding = 4, std430) readonly buffer Factor { vec4 factor_values[]; };
layout(set = 0, binding = 5, std430) readonly buffer Residual { vec4 residual_values[]; };
layout(set = 0, binding = 6, std430) readonly buffer Gate { vec4 gate_values[]; };

#include "gemm_float_push.glsl"

#include "epilogue.glsl"

void main() {
    const uint n4 = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    const uint row0 = gl_WorkGroupID.y * kRows;
    const uint column = min(n4, p.n4 - 1);  // lanes past the end repeat the last column, unwritten

    vec4 sum[kRows];
    [[unroll]] for (uint r = 0; r < kRows; ++r) sum[r] = vec4(0.0);

    const uint k4_full = p.k / 4;
    for (uint k4 = 0; k4 < k4_full; ++k4) {
        const uint b = (k4 * 4) * p.b_stride4 + column;
        const vec4 b0 = load_b(b);
        const vec4 b1 = load_b(b + p.b_stride4);
        const vec4 b2 = load_b(b + 2 * p.b_stride4);
        const vec4 b3 = load_b(b + 3 * p.b_stride4);
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            const vec4 a = load_a(min(row0 + r, p.m - 1) * p.a_stride4 + k4);
            sum[r] += a.x * b0;
            sum[r] += a.y * b1;
            sum[r] += a.z * b2;
            sum[r] += a.w * b3;
        }
    }
    for (uint k = k4_full * 4; k < p.k; ++k) {
        const vec4 b = load_b(k * p.b_stride4 + column);
        [[unroll]] for (uint r = 0; r < kRows; ++r) {
            sum[r] += load_a(min(row0 + r, p.m - 1) * p.a_stride4 + k4_full)[k & 3] * b;
        }
    }

    if (n4 >= p.n4) return;
    [[unroll]] for (uint r = 0; r < kRows; ++r) {
        if (row0 + r < p.m) {
            out_values[(row0 + r) * p.out_stride4 + p.column4 + n4] =
                epilogue(sum[r], row0 + r, p.column4 + n4);
        }
    }
}
