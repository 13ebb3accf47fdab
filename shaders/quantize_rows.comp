// Dynamic symmetric quantisation of rows (method 2):
//
//   x'[t, i] = x[t, i] * multiplier[i]              1 / channel scale, kHasMultiplier
//   s[t]     = clip * max_i |x'[t, i]| / qmax       1 for an all-zero row; clip: 1 unless kClip
//   code     = clamp(roundEven(x' / s), -qmax, qmax), 4 a word; row_sum[t] = sum of codes
//
//   in   fp32 [M, in_stride]     codes  words [M, k_words]     scales fp32 [M]     row_sums int32 [M]
//
// One work-group per row; quantize_rows_private.comp has one invocation per row. A rotation is a pass of its own
// before (hadamard_rows.comp, rotate_rows.comp), whose output is `in`.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "quantize_rows.glsl"

layout(set = 0, binding = 0, std430) readonly buffer In { float in_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer Multiplier { float multiplier[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Codes { uint codes[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Scales { float scales[]; };
layout(set = 0, binding = 4, std430) writeonly buffer RowSums { int row_sums[]; };
layout(set = 0, binding = 5, std430) readonly buffer Clip { float clip[]; };  // 1 value

#include "reduce.glsl"

float transformed(uint row, uint column) {
    float x = in_values[row * p.in_stride + column];
    if (kHasMultiplier != 0) x *= multiplier[column];
    return x;
}

void main() {
    const uint row = gl_WorkGroupID.x;
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;

    float largest = 0.0;
    for (uint i = lane; i < p.k; i += lanes) largest = max(largest, abs(transformed(row, i)));
    largest = workgroup_max(largest);
    float scale = largest > 0.0 ? largest / p.qmax : 1.0;
    if (kClip != 0 && largest > 0.0) scale *= clip[0];

    float sum = 0.0;  // exact: |sum of codes| < 2^24 for K up to 132,000
    for (uint word = lane; word < p.k_words; word += lanes) {
        uint packed = 0;
        for (uint b = 0; b < 4; ++b) {
            const uint column = 4 * word + b;
            if (column < p.k) {
                const float code = clamp(roundEven(transformed(row, column) / scale), -p.qmax, p.qmax);
                sum += code;
                packed |= (uint(int(code)) & 0xFFu) << (8 * b);
            }
        }
        codes[row * p.k_words + word] = packed;
    }
    sum = workgroup_sum(sum);
    if (lane == 0) {
        scales[row] = scale;
        row_sums[row] = int(sum);
    }
}
