// The best rank-r approximation of a tall matrix X, on the device: X ~ U V^T with V [columns, r]
// orthonormal and U [rows, r] carrying the singular values.
//
// Randomised subspace iteration, warm-started from the last basis: V <- orth(X^T (X V)), 3 times;
// at last Y = X V and U = Y E, V <- V E with the eigenvectors E of Y^T Y, so that no division by
// singular values is needed. orth is Cholesky-QR on the short side of X. X is read twice an
// iteration and once more, and there are few operations: each waits for the one before.
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
    /// Three come within 1 % of the optimum from random columns, 2.5 % on pure noise, which two
    /// miss for one matrix in ten; an exact answer where nothing separates what is kept from what
    /// isn't needs more.
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
