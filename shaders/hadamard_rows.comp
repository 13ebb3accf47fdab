// Rows times a block-diagonal Hadamard matrix, the fixed rotation of a quantised linear's input
// (method 2.4):
//
//   out[t, :] = (in[t, :] * multiplier) * H / sqrt(B) per block of B columns, Sylvester's H
//
//   in, out     fp32 [M, stride]; columns past K are zero in both
//   multiplier  fp32 [K]: 1 / channel scale, times the sign of the rotation
//
// An invocation takes kPoints vec4 of a row through their butterflies in registers. Blocks wider than that take
// a second pass over the first one's output, in which the points are kStride vec4 apart.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#include "constants.glsl"
#include "loads.glsl"

layout(constant_id = 1) const uint kPoints = 16;   // a power of two
layout(constant_id = 2) const uint kStride = 1;
layout(constant_id = 3) const uint kInner = 2;     // butterflies inside a vec4, log2: 2, or less for tiny B
layout(constant_id = 4) const uint kHasMultiplier = 0;

LOADABLE(in, 0)
LOADABLE(multiplier, 1)
layout(set = 0, binding = 2, std430) writeonly buffer Out { vec4 out_values[]; };

layout(push_constant) uniform Push {
    uint m;
    uint k;
    uint in_stride4;
    uint out_stride4;
    uint units;       // of a row
    float normalise;  // 1 / sqrt(B) in the first pass, else 1
} p;

// Of points that are REACH apart. A macro for each reach: Mesa does not unroll a loop over the reaches, and
// without that the points would not be registers.
#define BUTTERFLIES(REACH)                                     \
    [[unroll]] for (uint i = 0; i < (kPoints > REACH ? kPoints / 2 : 0); ++i) { \
        const uint j = i / REACH * 2 * REACH + i % REACH;      \
        const vec4 a = x[j];                                   \
        const vec4 b = x[j + REACH];                           \
        x[j] = a + b;                                          \
        x[j + REACH] = a - b;                                  \
    }

void main() {
    const uint id = gl_GlobalInvocationID.x;
    const uint row = id / p.units;
    const uint unit = id % p.units;
    if (row >= p.m) return;
    const uint first = unit / kStride * kStride * kPoints + unit % kStride;
    vec4 x[kPoints];
    [[unroll]] for (uint i = 0; i < kPoints; ++i) {
        const uint column4 = first + i * kStride;
        x[i] = load_in(row * p.in_stride4 + column4);
        if (kHasMultiplier != 0) {
            // Nothing is known of the multiplier past K.
            const uvec4 column = 4 * column4 + uvec4(0, 1, 2, 3);
            x[i] = mix(vec4(0.0), x[i] * load_multiplier(column4), lessThan(column, uvec4(p.k)));
        }
        x[i] *= p.normalise;
        if (kInner > 0) x[i] = vec4(x[i].x + x[i].y, x[i].x - x[i].y, x[i].z + x[i].w, x[i].z - x[i].w);
        if (kInner > 1) x[i] = vec4(x[i].xy + x[i].zw, x[i].xy - x[i].zw);
    }
    BUTTERFLIES(1);
    BUTTERFLIES(2);
    BUTTERFLIES(4);
    BUTTERFLIES(8);
    BUTTERFLIES(16);
    [[unroll]] for (uint i = 0; i < kPoints; ++i) out_values[row * p.out_stride4 + first + i * kStride] = x[i];
}
