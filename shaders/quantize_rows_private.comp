// The same as quantize_rows.comp, for drivers where loads and shared memory are dear (CPU drivers): an invocation
// owns a row, reads it through texel buffers and reduces it without the others. K is a multiple of 4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "loads.glsl"
#include "quantize_rows.glsl"

LOADABLE(in, 0)
LOADABLE(multiplier, 1)
layout(set = 0, binding = 2, std430) writeonly buffer Codes { uint codes[]; };
layout(set = 0, binding = 3, std430) writeonly buffer Scales { float scales[]; };
layout(set = 0, binding = 4, std430) writeonly buffer RowSums { int row_sums[]; };
layout(set = 0, binding = 5, std430) readonly buffer Clip { float clip[]; };  // 1 value

vec4 transformed(uint base, uint i) {
    vec4 x = load_in(base + i);
    if (kHasMultiplier != 0) x *= load_multiplier(i);
    return x;
}

void main() {
    const uint row = gl_GlobalInvocationID.x;
    if (row >= p.m) return;
    const uint base = row * (p.in_stride / 4);
    const uint k4 = p.k / 4;

    vec4 largest4 = vec4(0.0);
    for (uint i = 0; i < k4; ++i) largest4 = max(largest4, abs(transformed(base, i)));
    const float largest = max(max(largest4.x, largest4.y), max(largest4.z, largest4.w));
    float scale = largest > 0.0 ? largest / p.qmax : 1.0;
    if (kClip != 0 && largest > 0.0) scale *= clip[0];

    ivec4 sum = ivec4(0);
    for (uint i = 0; i < k4; ++i) {
        const ivec4 code = ivec4(clamp(roundEven(transformed(base, i) / scale), vec4(-p.qmax), vec4(p.qmax)));
        sum += code;
        const uvec4 bytes = uvec4(code) & 0xFFu;
        codes[row * p.k_words + i] = bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
    }
    for (uint i = k4; i < p.k_words; ++i) codes[row * p.k_words + i] = 0;
    scales[row] = scale;
    row_sums[row] = sum.x + sum.y + sum.z + sum.w;
}
