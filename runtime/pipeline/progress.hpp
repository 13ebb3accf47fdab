// Progress of a generation.
#pragma once

#include <algorithm>
#include <chrono>

#include "pipeline/stage.hpp"

namespace quantsparse::pipeline {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Turns submissions done into progress with an estimate of what remains of the stage: stages
/// differ in speed, so one tells nothing of the next.
class ProgressReporter {
  public:
    explicit ProgressReporter(const GenerationCallbacks& callbacks) : callbacks_(callbacks) {}

    void begin_stage(const char* stage) {
        stage_ = stage;
        stage_start_ = Clock::now();
    }
    /// `fraction` of the stage is over; false cancels.
    bool report(int done, int total, double fraction) {
        if (!callbacks_.progress) return true;
        Progress progress;
        progress.stage = stage_;
        progress.done = done;
        progress.total = total;
        progress.elapsed_seconds = seconds_since(start_);
        if (fraction > 0.02) {
            progress.remaining_seconds = seconds_since(stage_start_) * (1.0 - fraction) / fraction;
        }
        return callbacks_.progress(progress);
    }
    Between between() {
        return [this](int done, int total) {
            return report(done, total, static_cast<double>(done) / std::max(1, total));
        };
    }

  private:
    const GenerationCallbacks& callbacks_;
    const char* stage_ = "";
    Clock::time_point start_ = Clock::now();
    Clock::time_point stage_start_ = Clock::now();
};

}  // namespace quantsparse::pipeline
