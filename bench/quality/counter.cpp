#include "quality/counter.hpp"

#include <fmt/format.h>

namespace quantsparse::bench {

void Counter::done(const std::string& row, int prompt, const std::string& measured, double amount) {
    done_ += amount;
    const double elapsed =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const int left = static_cast<int>(elapsed * (total_ - done_) / done_);
    fmt::print(stderr, "{:g}/{:g} {} prompt {}: {}; {}:{:02d} left\n", done_, total_, row, prompt,
               measured, left / 60, left % 60);
}

}  // namespace quantsparse::bench
