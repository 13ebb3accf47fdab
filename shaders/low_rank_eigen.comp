// Eigenvectors of a small Gram matrix G = B^T B, largest eigenvalue first: B E has orthogonal columns.
//
//   gram  fp32 [size, gram_stride]
//   out   fp32 [size, out_stride]   the first `wanted` eigenvectors; padding columns zero
//
// Jacobi rotations in rounds of disjoint pairs (round robin), until every off-diagonal element is small
// beside its own diagonal ones: small eigenvalues come out as accurate as G's entries allow. One
// work-group; kSize <= 40.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kSize = 8;
const uint kEven = (kSize + 1) / 2 * 2;  // an odd size gets a zero row and column
const uint kPairs = kEven / 2;
const uint kMaxSweeps = 12;
const float kSmall = 1.0e-7;

layout(set = 0, binding = 0, std430) readonly buffer Gram { float gram[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint gram_stride;
    uint out_stride;
    uint wanted;
} p;

shared float a[kEven][kEven + 1];
shared float vectors[kEven][kEven + 1];
shared vec2 turns[kPairs];  // cosine, sine
shared uint turned;         // whether the sweep has turned anything
shared uint position[kEven];

/// Round robin: partner pairs of round `r`; every pair of 0 .. kEven-1 meets once in kEven - 1 rounds.
uvec2 pair_of(uint r, uint n) {
    const uint m = kEven - 1;
    const uint x = n == 0 ? m : (r + n) % m;
    const uint y = (r + m - n) % m;
    return uvec2(min(x, y), max(x, y));
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    // Scaled so that neither squares nor products leave the range of floats.
    float largest = 0.0;
    for (uint i = 0; i < kSize; ++i) largest = max(largest, gram[i * p.gram_stride + i]);
    const float scale = largest >= 1.0e-36 && largest <= 1.0e36 ? 1.0 / largest : 0.0;
    for (uint e = lane; e < kEven * kEven; e += lanes) {
        const uint i = e / kEven, j = e % kEven;
        a[i][j] = i < kSize && j < kSize && scale > 0.0 ? gram[i * p.gram_stride + j] * scale : 0.0;
        vectors[i][j] = i == j ? 1.0 : 0.0;
    }
    barrier();
    for (uint sweep = 0; sweep < kMaxSweeps; ++sweep) {
        if (lane == 0) turned = 0;
        barrier();
        for (uint r = 0; r < kEven - 1; ++r) {
            for (uint n = lane; n < kPairs; n += lanes) {
                const uvec2 ij = pair_of(r, n);
                const float off = a[ij.x][ij.y];
                const float first = a[ij.x][ij.x], second = a[ij.y][ij.y];
                vec2 turn = vec2(1.0, 0.0);
                if (abs(off) > kSmall * sqrt(max(first * second, 0.0)) && abs(off) > 1.0e-30) {
                    const float theta = (second - first) / (2.0 * off);
                    const float t = (theta < 0.0 ? -1.0 : 1.0) /
                                    (abs(theta) + (abs(theta) < 1.0e15 ? sqrt(theta * theta + 1.0) : abs(theta)));
                    const float c = 1.0 / sqrt(t * t + 1.0);
                    turn = vec2(c, t * c);
                    turned = 1;
                }
                turns[n] = turn;
            }
            barrier();
            // A <- A J and E <- E J: columns; then A <- J^T A: rows.
            for (uint e = lane; e < kPairs * kEven; e += lanes) {
                const uint n = e / kEven, k = e % kEven;
                const uvec2 ij = pair_of(r, n);
                const vec2 turn = turns[n];
                const float x = a[k][ij.x], y = a[k][ij.y];
                a[k][ij.x] = turn.x * x - turn.y * y;
                a[k][ij.y] = turn.y * x + turn.x * y;
                const float u = vectors[k][ij.x], v = vectors[k][ij.y];
                vectors[k][ij.x] = turn.x * u - turn.y * v;
                vectors[k][ij.y] = turn.y * u + turn.x * v;
            }
            barrier();
            for (uint e = lane; e < kPairs * kEven; e += lanes) {
                const uint n = e / kEven, k = e % kEven;
                const uvec2 ij = pair_of(r, n);
                const vec2 turn = turns[n];
                const float x = a[ij.x][k], y = a[ij.y][k];
                const bool own = k == ij.x || k == ij.y;
                a[ij.x][k] = own && k == ij.y ? 0.0 : turn.x * x - turn.y * y;
                a[ij.y][k] = own && k == ij.x ? 0.0 : turn.y * x + turn.x * y;
            }
            barrier();
        }
        if (turned == 0) break;
        barrier();
    }
    for (uint i = lane; i < kSize; i += lanes) {  // where eigenvalue i belongs
        uint before = 0;
        for (uint j = 0; j < kSize; ++j) {
            if (a[j][j] > a[i][i] || (a[j][j] == a[i][i] && j < i)) ++before;
        }
        position[i] = before;
    }
    barrier();
    for (uint e = lane; e < kSize * p.out_stride; e += lanes) {
        if (e % p.out_stride >= p.wanted) out_values[e] = 0.0;
    }
    for (uint e = lane; e < kSize * kSize; e += lanes) {
        const uint k = e / kSize, i = e % kSize;
        if (position[i] < p.wanted) out_values[k * p.out_stride + position[i]] = vectors[k][i];
    }
}
