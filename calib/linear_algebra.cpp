#include "calib/linear_algebra.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <thread>

namespace quantsparse::calib {

std::vector<float> multiply_transposed(std::span<const float> x, std::span<const float> w, int m,
                                       int n, int k) {
    const c10::InferenceMode no_gradients;
    // from_blob takes a mutable pointer; the operands are only read.
    const auto a = at::from_blob(const_cast<float*>(x.data()), {m, k}, at::kFloat);
    const auto b = at::from_blob(const_cast<float*>(w.data()), {n, k}, at::kFloat);
    std::vector<float> result(static_cast<std::size_t>(m) * static_cast<std::size_t>(n));
    auto out = at::from_blob(result.data(), {m, n}, at::kFloat);
    at::mm_out(out, a, b.t());
    return result;
}

int core_count(int threads) {
    return threads > 0 ? threads
                       : static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

void set_thread_count(int threads) {
    at::set_num_threads(threads);
    // OpenBLAS keeps a pool of its own, which LibTorch does not know of.
    using SetThreads = void (*)(int);
    if (auto* set =
            reinterpret_cast<SetThreads>(::dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
        set(threads);
    }
}

int worthwhile_threads(int threads, std::int64_t tokens, std::int64_t width) {
    constexpr std::int64_t kFewestValues = 1 << 20;
    return tokens * width < kFewestValues ? 1 : core_count(threads);
}

void keep_freed_memory() {
#if defined(__GLIBC__)
    ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
    ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
    ::mallopt(M_TOP_PAD, 64 << 20);
#endif
}

}  // namespace quantsparse::calib
