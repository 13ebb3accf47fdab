// The best rank-r approximation of a tall matrix X, on the device: X ~ U V^T with U [rows, r]
// orthonormal and V [columns, r] carrying the singular values.
//
// Randomised subspace iteration, warm-started from the last basis: Y = X V; Y <- orth(Y); Z = X^T
// Y; V <- orth(Z); ... ; at last U = Y E, V = Z E with the eigenvectors E of Z^T Z, so that no
// division by singular values is needed. orth is Cholesky-QR, twice. X is read twice an iteration;
// everything else is of its width r + 8.
#pragma once

#include "kernels/matmul.hpp"

namespace quantsparse::attention {

using kernels::Matrix;
using program::Program;
using program::Tensor;

constexpr int kMaxRank = 32;
/// Columns beyond the rank that the iteration carries: they take up what the last basis lacks.
constexpr int kOversampling = 8;
constexpr int kMaxColumns = kMaxRank + kOversampling;  // low_rank_eigen.comp's shared memory

struct LowRankFactors {
    Matrix u;  ///< fp32 [rows of X, .]
    Matrix v;  ///< fp32 [columns of X, .], persistent: the next projection starts from it
    int first_column = 0;  ///< of u and v where these factors lie, a multiple of 4
    int rank = 0;          ///< columns; padded with zeros to a multiple of 4
};

struct LowRankOptions {
    /// Three come within 1 % of the optimum from random columns (two within 4 % on pure noise);
    /// an exact answer where nothing separates what is kept from what isn't needs more.
    int iterations = 3;
    int oversampling = kOversampling;
    /// uint32, optional: column i of X counts only where mask[mask_offset + i / head_dim] != 0.
    Tensor mask;
    int mask_offset = 0;
    int head_dim = 1;
    /// uint32, optional: word seed_index seeds the random columns, another number each time.
    Tensor seed;
    int seed_index = 0;
};

/// The rank that an X of this size can have, at most `wanted`.
int usable_rank(int wanted, int rows, int columns);

/// Appends the projection of `x`; factors.rank must be usable_rank() of something.
void project_low_rank(Program& program, const std::string& name, const Matrix& x,
                      const LowRankFactors& factors, const LowRankOptions& options = {});

}  // namespace quantsparse::attention
