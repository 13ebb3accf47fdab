// Row normalisation over `columns`, one work-group per row:
//
//   layer norm (kKind 0)  y = (x - mean) / sqrt(variance + eps)
//   RMS norm   (kKind 1)  y = x / sqrt(mean(x^2) + eps)
//   y = y * weight + bias                              kHasWeight, kHasBias
//   y = y * (1 + scale) + shift                        kModulate; vectors inside one modulation buffer
//
//   in, out  fp32 [rows, stride]; columns .. stride-1 of out are set to zero
//   watch    uint32 [sites]: watch[site] becomes 1 when a row of `in` is not finite (kWatch); its sum of
//            squares is at hand, so this costs nothing
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "norm_rows.glsl"

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer Weight { float weight[]; };
layout(set = 0, binding = 3, std430) readonly buffer Bias { float bias[]; };
layout(set = 0, binding = 4, std430) readonly buffer Modulation { float modulation[]; };
layout(set = 0, binding = 5, std430) buffer Watch { uint watch[]; };

#include "reduce.glsl"

void main() {
    const uint base = gl_WorkGroupID.x * p.stride;
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;

    float mean = 0.0;
    if (kKind == 0) {
        float sum = 0.0;
        for (uint i = lane; i < p.columns; i += lanes) sum += in_values[base + i];
        mean = workgroup_sum(sum) / float(p.columns);
    }
    // Two passes: the variance of a row whose mean is large would cancel in one.
    float squares = 0.0;
    for (uint i = lane; i < p.columns; i += lanes) {
        const float x = in_values[base + i] - mean;
        squares += x * x;
    }
    squares = workgroup_sum(squares);
    const float inverse = 1.0 / sqrt(squares / float(p.columns) + p.eps);
    if (kWatch != 0 && lane == 0 && !(squares <= 3.0e38)) atomicOr(watch[p.site], 1u);

    for (uint i = lane; i < p.stride; i += lanes) {
        float y = 0.0;
        if (i < p.columns) {
            y = (in_values[base + i] - mean) * inverse;
            if (kHasWeight != 0) y *= weight[i];
            if (kHasBias != 0) y += bias[i];
            if (kModulate != 0) {
                y = y * (1.0 + modulation[p.scale_offset + i]) + modulation[p.shift_offset + i];
            }
        }
        out_values[base + i] = y;
    }
}
