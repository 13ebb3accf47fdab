// The same as norm_rows.comp, for drivers where loads and shared memory are dear (CPU drivers): an invocation owns
// a row and reads it through texel buffers. Columns and offsets are multiples of 4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "loads.glsl"
#include "norm_rows.glsl"

LOADABLE(in, 0)
layout(set = 0, binding = 1, std430) writeonly buffer Out { vec4 out_values[]; };
LOADABLE(weight, 2)
LOADABLE(bias, 3)
LOADABLE(modulation, 4)
layout(set = 0, binding = 5, std430) buffer Watch { uint watch[]; };

float total(vec4 v) {
    return (v.x + v.y) + (v.z + v.w);
}

void main() {
    const uint row = gl_GlobalInvocationID.x;
    if (row >= p.rows) return;
    const uint base = row * (p.stride / 4);
    const uint columns4 = p.columns / 4;

    float mean = 0.0;
    if (kKind == 0) {
        vec4 sum = vec4(0.0);
        for (uint i = 0; i < columns4; ++i) sum += load_in(base + i);
        mean = total(sum) / float(p.columns);
    }
    vec4 squares4 = vec4(0.0);
    for (uint i = 0; i < columns4; ++i) {
        const vec4 x = load_in(base + i) - mean;
        squares4 += x * x;
    }
    const float squares = total(squares4);
    const float inverse = 1.0 / sqrt(squares / float(p.columns) + p.eps);
    if (kWatch != 0 && !(squares <= 3.0e38)) atomicOr(watch[p.site], 1u);

    for (uint i = 0; i < columns4; ++i) {
        vec4 y = (load_in(base + i) - mean) * inverse;
        if (kHasWeight != 0) y *= load_weight(i);
        if (kHasBias != 0) y += load_bias(i);
        if (kModulate != 0) {
            y = y * (1.0 + load_modulation(p.scale_offset / 4 + i)) + load_modulation(p.shift_offset / 4 + i);
        }
        out_values[base + i] = y;
    }
    for (uint i = columns4; i < p.stride / 4; ++i) out_values[base + i] = vec4(0.0);
}
