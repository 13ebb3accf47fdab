// Elementwise operations on fp32 vectors:
//   kOperation 0: out = a + b, b repeated every `b_count` elements
//   kOperation 1: out = SiLU(a)
//   kOperation 2: out = a * b[channel] + c[channel], channel = (i / inner) % b_count  (VAE latents)
//   kOperation 3: out = a                                                             (copy)
//   kOperation 4: out = a - b
//   kOperation 5: out = GELU(a), tanh form, as in epilogue.glsl
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kOperation = 0;

layout(set = 0, binding = 0, std430) readonly buffer A { float a_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer B { float b_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer C { float c_values[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint count;
    uint b_count;
    uint inner;
} p;

void main() {
    const uint i = (gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x) * gl_WorkGroupSize.x +
                   gl_LocalInvocationID.x;
    if (i >= p.count) return;
    const float a = a_values[i];
    if (kOperation == 0) {
        out_values[i] = a + b_values[i % p.b_count];
    } else if (kOperation == 1) {
        out_values[i] = a / (1.0 + exp(-a));
    } else if (kOperation == 2) {
        const uint channel = (i / p.inner) % p.b_count;
        out_values[i] = a * b_values[channel] + c_values[channel];
    } else if (kOperation == 4) {
        out_values[i] = a - b_values[i];
    } else if (kOperation == 5) {
        const float e = exp(-2.0 * clamp(0.7978845608028654 * (a + 0.044715 * a * a * a), -15.0, 15.0));
        out_values[i] = 0.5 * a * (1.0 + (1.0 - e) / (1.0 + e));
    } else {
        out_values[i] = a;
    }
}
