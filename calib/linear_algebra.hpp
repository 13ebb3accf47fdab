// Matrix products for the searches, behind plain spans so that Torch stays out of their files.
#pragma once

#include <cstdint>
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

/// The number of threads inside one operation that is worth it for rows [tokens, width]: waking and
/// waiting costs more than it saves below about a million values (bundled model, 720 x 192, two
/// cores: 0.35 s an iteration with two threads, 0.15 s with one).
int worthwhile_threads(int threads, std::int64_t tokens, std::int64_t width);

/// Lets the allocator keep what is freed: activations of some MB are made and dropped hundreds of
/// times a second, and returning them to the system each time takes a quarter of the time.
void keep_freed_memory();

}  // namespace quantsparse::calib
