// q or k in codes of eight bits for attention (attention_codes.glsl), a scale for each block of kScaleBlock tokens:
//
//   x'[h, t, c] = x[h, t, c] - mean[h, c]                     kHasMean
//   s[h, b]     = max over the block of |x'| / 127            0 for a block of zeros
//   code        = roundEven(x' / s), 4 a word
//
//   x       fp32 [heads, stride, 4 p.dim4]
//   mean    fp32 [heads, 16 p.dim16] (head_columns.comp)
//   codes   words [heads, stride, 4 p.dim16]; zeros from column 4 p.dim4 on, nothing from token p.tokens on
//   scales  fp32 [heads, p.scale_stride], from p.scale_offset on: s * p.factor
//
// Group x: blocks, group y: heads.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "codes.glsl"

layout(constant_id = 1) const uint kHasMean = 0;

layout(set = 0, binding = 0, std430) readonly buffer X { vec4 x_values[]; };
layout(set = 0, binding = 1, std430) readonly buffer Mean { vec4 means[]; };
layout(set = 0, binding = 2, std430) writeonly buffer Codes { uint codes[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Scales { float scales[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint stride;
    uint dim4;
    uint dim16;
    uint first_head;    // of `mean` and `scales`; x and codes are bound from this head on
    uint scale_stride;
    uint scale_offset;
    float factor;
} p;

const uint kScaleBlock = 64;  // attention_codes.glsl

shared uint lane_peaks[gl_WorkGroupSize.x];

vec4 value(uint token, uint d) {
    const uint head = gl_WorkGroupID.y;
    vec4 x = x_values[(head * p.stride + token) * p.dim4 + d];
    if (kHasMean != 0) x -= means[(p.first_head + head) * (4 * p.dim16) + d];
    return x;
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    const uint head = gl_WorkGroupID.y;
    const uint first = gl_WorkGroupID.x * kScaleBlock;
    const uint tokens = min(kScaleBlock, p.tokens - first);

    uint largest = 0;
    for (uint i = lane; i < tokens * p.dim4; i += lanes) {
        largest = max(largest, largest_magnitude(value(first + i / p.dim4, i % p.dim4)));
    }
    lane_peaks[lane] = largest;
    barrier();
    for (uint i = 0; i < lanes; ++i) largest = max(largest, lane_peaks[i]);
    const float scale = code_scale(largest);

    const uint words = 4 * p.dim16;
    for (uint i = lane; i < tokens * words; i += lanes) {
        const uint d = i % words;
        codes[(head * p.stride + first) * words + i] =
            d < p.dim4 ? coded(value(first + i / words, d), vec4(scale)) : 0;
    }
    if (lane == 0) scales[(p.first_head + head) * p.scale_stride + p.scale_offset + gl_WorkGroupID.x] = scale * p.factor;
}
