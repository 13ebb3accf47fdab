// V0[i, k], the columns a projection starts from: the basis found last time (scaled to length 1), and
// random signs where there is none and in the columns beyond the rank, so that directions that are new
// can be found. Rows of columns that are masked out are zero.
//
//   basis  fp32 [n, basis_stride]   V of the last projection, zero the first time
//   out    fp32 [n, out_stride]     columns oversampled .. out_stride-1 are set to zero
//   mask   uint32 [heads]           column i counts where mask[i / head_dim] != 0 (kMasked)
//   seed   uint32[1] at seed_index  another number each time (kSeeded)
//
// One work-group per column of `out`.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kMasked = 0;
layout(constant_id = 2) const uint kSeeded = 0;

layout(set = 0, binding = 0, std430) readonly buffer Basis { float basis[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };
layout(set = 0, binding = 2, std430) readonly buffer Mask { uint mask[]; };
layout(set = 0, binding = 3, std430) readonly buffer Seed { uint seeds[]; };

layout(push_constant) uniform Push {
    uint n;
    uint rank;
    uint oversampled;    // columns
    uint basis_stride;
    uint basis_column;   // of `basis`, where the factors begin
    uint out_stride;
    uint head_dim;
    uint mask_offset;
    uint seed_index;
} p;

#include "reduce.glsl"

uint hash(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

void main() {
    const uint column = gl_WorkGroupID.x;
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    float squares = 0.0;
    if (column < p.rank) {
        for (uint i = lane; i < p.n; i += lanes) {
            const float v = basis[i * p.basis_stride + p.basis_column + column];
            squares += v * v;
        }
    }
    squares = workgroup_sum(squares);
    const bool known = squares >= 1.0e-30 && squares <= 1.0e30;  // false for NaN too
    const float scale = known ? 1.0 / sqrt(squares) : 0.0;
    const uint stream = hash(column + 64 * (kSeeded != 0 ? seeds[p.seed_index] : 0));
    for (uint i = lane; i < p.n; i += lanes) {
        float v = 0.0;
        const bool counts = kMasked == 0 || mask[p.mask_offset + i / p.head_dim] != 0;
        if (column < p.oversampled && counts) {
            v = known ? basis[i * p.basis_stride + p.basis_column + column] * scale
                : (hash(stream + i) & 1) != 0 ? 1.0 : -1.0;
        }
        out_values[i * p.out_stride + column] = v;
    }
}
