// Progress with an estimate of the time left, on stderr, and the one way a calibration is
// cancelled.
#pragma once

#include <chrono>
#include <string>

namespace quantsparse::calib {

/// Thrown by check_cancelled(); not an error: main says "cancelled" and leaves.
struct Cancelled {};

/// Makes SIGINT and SIGTERM request a cancel; the second one ends the process at once.
void install_signal_handlers();
void request_cancel();
void reset_cancel();
/// Throws Cancelled when a cancel was requested. Called between blocks, groups and tensors.
void check_cancelled();

/// One stage: "collect 12/40, 0:13 left". On a terminal the line is redrawn, else it is printed at
/// most every five seconds. Disabled it prints nothing.
class Progress {
  public:
    Progress(std::string stage, int total, bool enabled);
    ~Progress();
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;

    void advance(int count = 1);

  private:
    void print(bool final);

    std::string stage_;
    int total_ = 0;
    int done_ = 0;
    bool enabled_ = false;
    bool terminal_ = false;
    std::chrono::steady_clock::time_point start_;
    std::chrono::steady_clock::time_point printed_;
};

}  // namespace quantsparse::calib
