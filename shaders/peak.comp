// The most arithmetic a device does a second: chains of independent operations that nothing can shorten.
//
//   PEAK_FLOAT     sum = sum * factor + offset     vec4, fp32:      8 operations a step and chain
//   PEAK_HALF      the same                        f16vec4, which packed arithmetic takes as two pairs: 8
//   PEAK_INTEGER   sum = (sum * factor) ^ offset   ivec4:           8   (additions would be folded together)
//   PEAK_DOT       sum = dot4(sum, factor) + offset, 4x8-bit packed, four side by side: 32
//
//   out   vec4 [invocations]: the sums, so that none of it is left out
//
// Each invocation runs kChains chains of p.steps steps. factor and offset come from the push constants,
// so the compiler can't fold them.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#ifdef PEAK_DOT
#extension GL_EXT_spirv_intrinsics : require
#elif defined(PEAK_HALF)
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#endif
#include "constants.glsl"

layout(constant_id = 1) const uint kChains = 8;

layout(set = 0, binding = 0, std430) writeonly buffer Out { vec4 out_values[]; };

layout(push_constant) uniform Push {
    uint steps;
    uint factor;
    uint offset;
} p;

#ifdef PEAK_DOT
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int dot_packed_signed(uint a, uint b, spirv_literal int packed_format);
#endif

void main() {
    const uint index = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
#ifdef PEAK_FLOAT
#define VALUE vec4
    const vec4 factor = vec4(uintBitsToFloat(p.factor));
    const vec4 offset = vec4(uintBitsToFloat(p.offset));
#elif defined(PEAK_HALF)
#define VALUE f16vec4
    const f16vec4 factor = f16vec4(uintBitsToFloat(p.factor));
    const f16vec4 offset = f16vec4(uintBitsToFloat(p.offset));
#else
#define VALUE ivec4
    const ivec4 factor = ivec4(p.factor);
    const ivec4 offset = ivec4(p.offset);
#endif
    VALUE sum[kChains];
    [[unroll]] for (uint c = 0; c < kChains; ++c) sum[c] = VALUE(index + c, index + 3 * c + 1, index ^ c, 7 * index + c);
    for (uint step = 0; step < p.steps; ++step) {
        [[unroll]] for (uint c = 0; c < kChains; ++c) {
#ifdef PEAK_DOT
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                sum[c][i] = dot_packed_signed(uint(sum[c][i]), uint(factor[i]), 0) + offset[i];
            }
#elif defined(PEAK_INTEGER)
            sum[c] = (sum[c] * factor) ^ offset;
#else
            sum[c] = sum[c] * factor + offset;
#endif
        }
    }
    VALUE total = sum[0];
    [[unroll]] for (uint c = 1; c < kChains; ++c) total += sum[c];
    out_values[index] = vec4(total);
}
