// Work divided among threads so that its results don't depend on their number: every piece is
// computed by one thread, and what the pieces are depends on the problem alone.
#pragma once

#include <cstddef>
#include <functional>

namespace quantsparse::calib {

/// Runs body(0) ... body(count - 1) on up to `threads` threads (0: one per core); rethrows the
/// first exception. Guards of LibTorch belong to a thread: the body sets its own.
void in_parallel(std::size_t count, int threads, const std::function<void(std::size_t)>& body);

/// While it lives, an operation of LibTorch or of its matrix library runs on the thread that calls
/// it. Matrix libraries divide sums by the number of their threads, so this is needed where results
/// must repeat to the bit.
class OneThreadPerOperation {
  public:
    OneThreadPerOperation();
    ~OneThreadPerOperation();
    OneThreadPerOperation(const OneThreadPerOperation&) = delete;
    OneThreadPerOperation& operator=(const OneThreadPerOperation&) = delete;

  private:
    int before_;
};

}  // namespace quantsparse::calib
