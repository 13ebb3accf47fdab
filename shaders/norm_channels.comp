// RMS norm over the channels at each position of frame-major pictures (wan fact 12), then SiLU:
//
//   out[f, c, i] = act( x[f, c, i] / max(||x[f, :, i]||, 1e-12) * sqrt(C) * gamma[c] )
//
//   in, out  fp32 [frames, channels, plane]. One invocation per position; group y: frames.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kSilu = 0;

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer Gamma { float gamma[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint channels;
    uint plane;
    uint out_offset;  // in floats: frames of history that come before
} p;

void main() {
    const uint position = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationID.x;
    if (position >= p.plane) return;
    const uint base = gl_WorkGroupID.y * p.channels * p.plane + position;
    float squares = 0.0;
    for (uint c = 0; c < p.channels; ++c) {
        const float x = in_values[base + c * p.plane];
        squares += x * x;
    }
    const float factor = sqrt(float(p.channels)) / max(sqrt(squares), 1e-12);
    for (uint c = 0; c < p.channels; ++c) {
        float y = in_values[base + c * p.plane] * factor * gamma[c];
        if (kSilu != 0) y = y / (1.0 + exp(-y));
        out_values[p.out_offset + base + c * p.plane] = y;
    }
}
