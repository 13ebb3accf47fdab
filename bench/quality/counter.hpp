// How far the measuring of a table is, on standard error.
#pragma once

#include <chrono>
#include <string>

namespace quantsparse::bench {

class Counter {
  public:
    /// `total`: what is to be done, in any unit of time's size.
    explicit Counter(double total) : total_(total) {}
    /// A row is done with a prompt, which was `amount` of the total. Prints what was measured and
    /// the time left.
    void done(const std::string& row, int prompt, const std::string& measured, double amount = 1);

  private:
    double total_;
    double done_ = 0;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace quantsparse::bench
