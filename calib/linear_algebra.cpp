#include "calib/linear_algebra.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

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

}  // namespace quantsparse::calib
