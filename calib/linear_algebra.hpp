// Matrix products for the searches, behind plain spans so that Torch stays out of their files.
#pragma once

#include <span>
#include <vector>

namespace quantsparse::calib {

/// x w^T for x [m, k] and w [n, k], both row-major: [m, n].
std::vector<float> multiply_transposed(std::span<const float> x, std::span<const float> w, int m,
                                       int n, int k);

/// Threads of the matrix library; 0: all cores.
void set_thread_count(int threads);

}  // namespace quantsparse::calib
