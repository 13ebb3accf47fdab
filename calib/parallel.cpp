#include "calib/parallel.hpp"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "calib/linear_algebra.hpp"

namespace quantsparse::calib {

void in_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& body) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failure;
    std::mutex failure_mutex;
    const auto work = [&] {
        try {
            for (std::size_t index = next++; index < count; index = next++) {
                body(index);
            }
        } catch (...) {
            const std::lock_guard lock(failure_mutex);
            failure = failure ? failure : std::current_exception();
        }
    };
    std::vector<std::thread> workers;
    const auto wanted = static_cast<std::size_t>(core_count(threads));
    for (std::size_t i = 1; i < std::min(count, wanted); ++i) {
        workers.emplace_back(work);
    }
    work();
    for (auto& worker : workers) {
        worker.join();
    }
    if (failure) {
        std::rethrow_exception(failure);
    }
}

OneThreadPerOperation::OneThreadPerOperation() : before_(at::get_num_threads()) {
    set_thread_count(1);
}

OneThreadPerOperation::~OneThreadPerOperation() {
    set_thread_count(before_);
}

}  // namespace quantsparse::calib
