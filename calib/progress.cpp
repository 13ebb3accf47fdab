#include "calib/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>

namespace quantsparse::calib {
namespace {

using Clock = std::chrono::steady_clock;

std::atomic<bool> cancel_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

extern "C" void on_signal(int number) {
    if (cancel_requested.exchange(true)) {
        std::signal(number, SIG_DFL);
        std::raise(number);
    }
}

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string clock_text(double seconds) {
    const auto whole = static_cast<long>(seconds + 0.5);
    return whole < 3600 ? fmt::format("{}:{:02}", whole / 60, whole % 60)
                        : fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace

void install_signal_handlers() {
    std::signal(SIGINT, on_signal);
    std::signal(SIGTERM, on_signal);
}

void request_cancel() {
    cancel_requested = true;
}
void reset_cancel() {
    cancel_requested = false;
}

void check_cancelled() {
    if (cancel_requested) {
        throw Cancelled{};
    }
}

Progress::Progress(std::string stage, int total, bool enabled)
    : stage_(std::move(stage)),
      total_(total),
      enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) != 0),
      start_(Clock::now()),
      printed_(Clock::now()) {}

Progress::~Progress() {
    if (enabled_ && done_ > 0) {
        print(true);
    }
}

void Progress::advance(int count) {
    done_ += count;
    if (enabled_ && done_ < total_ && seconds_since(printed_) > (terminal_ ? 0.1 : 5.0)) {
        print(false);
        printed_ = Clock::now();
    }
}

void Progress::print(bool final) {
    const double elapsed = seconds_since(start_);
    const auto line =
        final ? fmt::format("{} {}/{}, took {}", stage_, done_, total_, clock_text(elapsed))
              : fmt::format("{} {}/{}, {} left", stage_, done_, total_,
                            clock_text(elapsed / done_ * (total_ - done_)));
    std::fputs(
        fmt::format("{}{:<60}{}", terminal_ ? "\r" : "", line, terminal_ && !final ? "" : "\n")
            .c_str(),
        stderr);
    std::fflush(stderr);
}

}  // namespace quantsparse::calib
