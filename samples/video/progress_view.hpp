// What a run shows of its progress, on standard error (standard output may carry the video).
#pragma once

#include <chrono>
#include <string>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::video {

enum class ProgressStyle {
    automatic,  ///< a bar on a terminal, lines otherwise
    bar,
    lines,
    json,  ///< one JSON object per line
    none,
};

class ProgressView {
  public:
    explicit ProgressView(ProgressStyle style);
    ~ProgressView() { end_line(); }
    ProgressView(const ProgressView&) = delete;

    void update(const Progress& progress);
    void end_line();  ///< leaves a half-drawn bar, so that a message can follow

  private:
    bool due(const Progress& progress);

    ProgressStyle style_;
    bool line_open_ = false;
    std::string stage_;
    int last_done_ = -1;
    int last_tenth_ = -1;
    std::chrono::steady_clock::time_point last_;
};

/// "48 s", "3 min 20 s", "2 h 05 min".
std::string duration_text(double seconds);

}  // namespace quantsparse::video
