// One round of Cholesky-QR: from G = Y^T Y the matrix T for which Y T has orthonormal columns.
//
//   S = diag(G)^(-1/2),  S G S + shift I = R^T R,  T = S R^(-1)
//
//   gram  fp32 [size, stride]
//   out   fp32 [size, stride]   T, upper triangular; padding columns zero
//
// Scaling first keeps columns of very different length apart; the shift of a first round bounds what
// rounding can do to columns that are nearly dependent, a second round without it finishes. A column
// whose pivot vanishes lies in the span of those before it: it becomes zero, and nothing is lost.
// One work-group; kSize <= 40.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kSize = 8;

layout(set = 0, binding = 0, std430) readonly buffer Gram { float gram[]; };
layout(set = 0, binding = 1, std430) writeonly buffer Out { float out_values[]; };

layout(push_constant) uniform Push {
    uint stride;
    float shift;
} p;

const float kSmallestPivot = 1.0e-6;  // of columns scaled to length 1: the rounding of G

shared float a[kSize][kSize + 1];        // becomes R
shared float inverse[kSize][kSize + 1];  // of R
shared float scale[kSize];

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    for (uint i = lane; i < kSize; i += lanes) {
        const float square = gram[i * p.stride + i];
        scale[i] = square >= 1.0e-36 && square <= 1.0e36 ? 1.0 / sqrt(square) : 0.0;
    }
    barrier();
    for (uint e = lane; e < kSize * kSize; e += lanes) {
        const uint i = e / kSize, j = e % kSize;
        const bool both = scale[i] > 0.0 && scale[j] > 0.0;
        a[i][j] = i == j ? (both ? 1.0 + p.shift : 0.0)
                         : (both ? gram[i * p.stride + j] * scale[i] * scale[j] : 0.0);
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
        out_values[e] = j < kSize ? scale[i] * inverse[i][j] : 0.0;
    }
}
