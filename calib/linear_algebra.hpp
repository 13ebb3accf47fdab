// Matrix products for the searches, behind plain spans so that Torch stays out of their files.
#pragma once

#include <span>
#include <vector>

namespace quantsparse::calib {

/// x w^T for x [m, k] and w [n, k], both row-major: [m, n].
std::vector<float> multiply_transposed(std::span<const float> x, std::span<const float> w, int m,
                                       int n, int k);

/// The number asked for, or of all cores when that is 0.
int core_count(int threads);

/// Threads inside one operation of LibTorch and of its matrix library.
void set_thread_count(int threads);

}  // namespace quantsparse::calib
