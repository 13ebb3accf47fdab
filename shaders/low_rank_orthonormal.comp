// One round of Cholesky-QR: the matrix T for which Z T has orthonormal columns.
//
//   G = Z^T Z,  S = diag(G)^(-1/2),  S G S + shift I = R^T R,  T = S R^(-1)
//
//   z     fp32 [rows, stride]   some thousand rows: the columns of X
//   out   fp32 [size, stride]   T, upper triangular; padding columns zero
//
// Scaling first keeps columns of very different length apart. A round with a shift, larger than the smallest pivot,
// keeps columns that are nearly dependent and makes them some 500 times less so; one without finishes. A column whose
// pivot vanishes there lies in the span of those before it: it becomes zero, and nothing is lost.
//
// One work-group; kSize <= 40. For G an invocation owns a block of 4 x 4 on or above the diagonal and a share of the
// rows; the shares are added in order, so that every run gives the same bits.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"
#include "loads.glsl"

layout(constant_id = 1) const uint kSize = 8;

LOADABLE(z, 0)
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint rows;
    uint stride;
    float shift;
} p;

const float kSmallestPivot = 1.0e-6;  // of columns scaled to length 1: the rounding of G

shared float a[kSize][kSize + 1];        // becomes R
shared float inverse[kSize][kSize + 1];  // of R
shared float scale[kSize];
shared uint largest_bits;

const uint kFours = (kSize + 3) / 4;
const uint kBlocks = kFours * (kFours + 1) / 2;

/// Row and column of a block on or above the diagonal.
uvec2 block_at(uint n) {
    uint i = 0;
    for (; n >= kFours - i; ++i) n -= kFours - i;
    return uvec2(i, i + n);
}

/// What Z is multiplied with to keep squares in the range of floats, a power of two.
float range_scale() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    if (lane == 0) largest_bits = 0;
    barrier();
    vec4 largest = vec4(0.0);
    for (uint i = lane; i < p.rows * (p.stride / 4); i += lanes) largest = max(largest, abs(load_z(i)));
    // Floats that are not negative order as their bits do.
    atomicMax(largest_bits, floatBitsToUint(max(max(largest.x, largest.y), max(largest.z, largest.w))));
    barrier();
    const float most = uintBitsToFloat(largest_bits);
    return most >= 1.0e-36 && most <= 1.0e36 ? exp2(-floor(log2(most))) : 0.0;
}

/// a <- the upper triangle of G.
void gram(float z_scale) {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    const uint shares = max(lanes / kBlocks, 1);
    const uint share = lane / kBlocks;
    const uint begin = share * p.rows / shares;
    const uint end = (share + 1) * p.rows / shares;
    const uint z4 = p.stride / 4;
    for (uint first = 0; first < kBlocks; first += lanes) {  // once unless lanes are fewer
        const uint n = first + lane % kBlocks;
        const bool owns = share < shares && n < kBlocks && lane < kBlocks * shares;
        const uvec2 block = block_at(min(n, kBlocks - 1));
        vec4 sum0 = vec4(0.0), sum1 = vec4(0.0), sum2 = vec4(0.0), sum3 = vec4(0.0);
        for (uint t = owns ? begin : end; t < end; ++t) {
            const vec4 x = load_z(t * z4 + block.x) * z_scale;
            const vec4 y = load_z(t * z4 + block.y) * z_scale;
            sum0 += x.x * y;
            sum1 += x.y * y;
            sum2 += x.z * y;
            sum3 += x.w * y;
        }
        for (uint turn = 0; turn < shares; ++turn) {
            if (owns && share == turn) {
                for (uint e = 0; e < 16; ++e) {
                    const uint i = 4 * block.x + e / 4, j = 4 * block.y + e % 4;
                    const vec4 row = e < 4 ? sum0 : e < 8 ? sum1 : e < 12 ? sum2 : sum3;
                    if (i < kSize && j < kSize) a[i][j] = (turn == 0 ? 0.0 : a[i][j]) + row[e % 4];
                }
            }
            barrier();
        }
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    const float z_scale = range_scale();
    gram(z_scale);
    for (uint i = lane; i < kSize; i += lanes) {
        const float square = a[i][i];
        scale[i] = square >= 1.0e-36 && square <= 1.0e36 ? 1.0 / sqrt(square) : 0.0;
    }
    barrier();
    for (uint e = lane; e < kSize * kSize; e += lanes) {
        const uint i = e / kSize, j = e % kSize;
        const bool both = scale[i] > 0.0 && scale[j] > 0.0;
        if (i <= j) {
            a[i][j] = i == j ? (both ? 1.0 + p.shift : 0.0) : (both ? a[i][j] * scale[i] * scale[j] : 0.0);
        }
        inverse[i][j] = 0.0;
    }
    barrier();
    for (uint k = 0; k < kSize; ++k) {
        const float pivot = a[k][k];
        const bool kept = pivot > kSmallestPivot;
        const float root = kept ? sqrt(pivot) : 1.0;
        barrier();
        for (uint j = k + lane; j < kSize; j += lanes) {
            a[k][j] = j == k ? root : kept ? a[k][j] / root : 0.0;
        }
        if (lane == 0 && !kept) scale[k] = 0.0;
        barrier();
        const uint rest = kSize - k - 1;
        for (uint e = lane; e < rest * rest; e += lanes) {
            const uint i = k + 1 + e / rest, j = k + 1 + e % rest;
            if (j >= i) a[i][j] -= a[k][i] * a[k][j];
        }
        barrier();
    }
    for (uint j = lane; j < kSize; j += lanes) {  // an invocation owns a column of the inverse
        if (scale[j] == 0.0) continue;
        inverse[j][j] = 1.0 / a[j][j];
        for (uint up = 1; up <= j; ++up) {
            const uint i = j - up;
            float sum = 0.0;
            for (uint k = i + 1; k <= j; ++k) sum += a[i][k] * inverse[k][j];
            inverse[i][j] = -sum / a[i][i];
        }
    }
    barrier();
    for (uint e = lane; e < kSize * p.stride; e += lanes) {
        const uint i = e / p.stride, j = e % p.stride;
        out_values[e] = j < kSize ? z_scale * scale[i] * inverse[i][j] : 0.0;
    }
}
