// The most arithmetic the matrix units do a second: chains of independent products of matrices in registers.
//
//   PEAK_INT8   signed bytes, sums in int32        PEAK_HALF   halves, sums in fp32
//
//   out   vec4 [subgroups * kM * kN / 4]: the sums, so that none of it is left out
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_shader_explicit_arithmetic_types : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"

layout(constant_id = 1) const uint kChains = 8;
layout(constant_id = 2) const uint kM = 16;
layout(constant_id = 3) const uint kN = 16;
layout(constant_id = 4) const uint kK = 32;

#ifdef PEAK_INT8
#define ELEMENT int8_t
#define SUM int
layout(set = 0, binding = 0, std430) writeonly buffer Out { ivec4 out_values[]; };
#else
#define ELEMENT float16_t
#define SUM float
layout(set = 0, binding = 0, std430) writeonly buffer Out { vec4 out_values[]; };
#endif

layout(push_constant) uniform Push {
    uint steps;
    uint factor;
    uint offset;
} p;

void main() {
    coopmat<ELEMENT, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA> a =
        coopmat<ELEMENT, gl_ScopeSubgroup, kM, kK, gl_MatrixUseA>(ELEMENT(p.factor));
    coopmat<ELEMENT, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB> b =
        coopmat<ELEMENT, gl_ScopeSubgroup, kK, kN, gl_MatrixUseB>(ELEMENT(p.offset));
    coopmat<SUM, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator> sum[kChains];
    [[unroll]] for (uint c = 0; c < kChains; ++c) {
        sum[c] = coopmat<SUM, gl_ScopeSubgroup, kM, kN, gl_MatrixUseAccumulator>(SUM(gl_WorkGroupID.x + c));
    }
    for (uint step = 0; step < p.steps; ++step) {
        [[unroll]] for (uint c = 0; c < kChains; ++c) sum[c] = coopMatMulAdd(a, b, sum[c]);
    }
    [[unroll]] for (uint c = 1; c < kChains; ++c) sum[0] += sum[c];
    const uint subgroup = gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID;
    coopMatStore(sum[0], out_values, subgroup * (kM * kN / 4), kN / 4, gl_CooperativeMatrixLayoutRowMajor);
}
