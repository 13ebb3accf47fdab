// The same as split_heads.comp, for drivers where loads and shared memory are dear (CPU drivers): an invocation
// owns a token and reads its row through texel buffers. The head dimension is a multiple of 4.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "loads.glsl"
#include "split_heads.glsl"
#include "token_order.glsl"

LOADABLE(in, 0)
layout(set = 0, binding = 1, std430) writeonly buffer Out { vec4 out_values[]; };
LOADABLE(weight, 2)
LOADABLE(table, 3)  // of two pairs each
layout(set = 0, binding = 4, std430) readonly buffer Types { uint head_types[]; };

void main() {
    const uint row = gl_GlobalInvocationID.x;
    if (row >= p.rows) return;
    const uint token = p.token_base + row;
    const uint base = row * (p.in_stride / 4);
    const uint dim4 = p.head_dim / 4;

    float inverse = 1.0;
    if (kNorm != 0) {
        vec4 squares = vec4(0.0);
        for (uint i = 0; i < p.columns / 4; ++i) {
            const vec4 x = load_in(base + i);
            squares += x * x;
        }
        inverse = 1.0 / sqrt((squares.x + squares.y + squares.z + squares.w) / float(p.columns) + p.eps);
    }
    const uint in_frame = token % (p.grid_rows * p.grid_columns);
    const uvec3 place = uvec3(token / (p.grid_rows * p.grid_columns), in_frame / p.grid_columns,
                              in_frame % p.grid_columns);
    for (uint head = 0; head < p.heads; ++head) {
        const bool temporal = kFrames > 0 && head_types[p.first_head + head] != 0;
        const uint position_out =
            temporal ? position_by_place(token, p.text, kFrames, p.places, kFrame0Apart != 0)
                     : kPositions != 0 ? head_types[token] : token;
        // A loop ends when no lane needs it; the body of a branch would run all the same.
        const uint fours = kOnlyTemporal == 0 || temporal ? dim4 : 0;
        const uint out_base = (head * p.token_stride + position_out) * dim4;
        const uint first = (p.first_head + head) * dim4;
        for (uint i = 0; i < fours; ++i) {
            vec4 y = load_in(base + first + i) * inverse;
            if (kNorm != 0) y *= load_weight(first + i);
            if (kRope != 0) {
                const uvec2 pair = uvec2(2 * i, 2 * i + 1);
                const uvec2 position = mix(mix(uvec2(place.z), uvec2(place.y), lessThan(pair, uvec2(p.pairs_time + p.pairs_row))),
                                           uvec2(place.x), lessThan(pair, uvec2(p.pairs_time)));
                const vec4 angle = vec4(load_table(position.x * dim4 + i).xy, load_table(position.y * dim4 + i).zw);
                y = vec4(y.x * angle.x - y.y * angle.y, y.x * angle.y + y.y * angle.x,
                         y.z * angle.z - y.w * angle.w, y.z * angle.w + y.w * angle.z);
            }
            out_values[out_base + i] = y;
        }
    }
}
