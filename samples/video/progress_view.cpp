#include "progress_view.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace quantsparse::video {
namespace {

constexpr int kBarCells = 24;
constexpr auto kBarPeriod = std::chrono::milliseconds(100);
constexpr auto kLinePeriod = std::chrono::seconds(10);      // at the latest, as a sign of life
constexpr auto kLeastLinePeriod = std::chrono::seconds(2);  // between lines of one stage

const char* label_of(const std::string& stage) {
    return stage == "load"      ? "loading the model"
           : stage == "text"    ? "reading the prompt"
           : stage == "denoise" ? "denoising"
           : stage == "decode"  ? "decoding frames"
                                : stage.c_str();
}

std::string counts(const Progress& progress) {
    const char* unit = std::string_view(progress.stage) == "denoise" ? " steps" : "";
    std::string text = fmt::format("{}/{}{}, {}", progress.done, progress.total, unit,
                                   duration_text(progress.elapsed_seconds));
    if (progress.remaining_seconds >= 0 && progress.done < progress.total) {
        text += fmt::format(", {} left", duration_text(progress.remaining_seconds));
    }
    return text;
}

double fraction(const Progress& progress) {
    return progress.total > 0 ? std::clamp(double(progress.done) / progress.total, 0.0, 1.0) : 0.0;
}

}  // namespace

std::string duration_text(double seconds) {
    if (seconds < 10) {
        return fmt::format("{:.1f} s", seconds);
    }
    const long whole = std::lround(seconds);
    if (whole < 60) {
        return fmt::format("{} s", whole);
    }
    if (whole < 3600) {
        return fmt::format("{} min {:02} s", whole / 60, whole % 60);
    }
    return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

ProgressView::ProgressView(ProgressStyle style) : style_(style) {
    if (style_ == ProgressStyle::automatic) {
        style_ = ::isatty(STDERR_FILENO) != 0 ? ProgressStyle::bar : ProgressStyle::lines;
    }
}

// A stage's beginning and the end of denoising always show; between them no more than a reader
// can use.
bool ProgressView::due(const Progress& progress) {
    const auto now = std::chrono::steady_clock::now();
    const bool lines = style_ == ProgressStyle::lines;
    const bool new_stage = stage_ != progress.stage;
    const int tenth = static_cast<int>(fraction(progress) * 10);
    const bool moved = new_stage || progress.done != last_done_;
    const bool finished = moved && progress.done == progress.total &&
                          (!lines || std::string_view(progress.stage) == "denoise");
    const bool late =
        lines ? now - last_ >= (moved && tenth != last_tenth_ ? kLeastLinePeriod : kLinePeriod)
              : now - last_ >= kBarPeriod;
    if (!new_stage && !finished && !late) {
        return false;
    }
    if (new_stage) {
        end_line();
    }
    stage_ = progress.stage;
    last_done_ = progress.done;
    last_tenth_ = tenth;
    last_ = now;
    return true;
}

void ProgressView::update(const Progress& progress) {
    if (style_ == ProgressStyle::none || !due(progress)) {
        return;
    }
    switch (style_) {
        case ProgressStyle::bar: {
            const int filled = static_cast<int>(fraction(progress) * kBarCells);
            fmt::print(stderr, "\r\x1b[K{:<18} [{:=<{}}{:{}}] {}", label_of(stage_), "", filled, "",
                       kBarCells - filled, counts(progress));
            line_open_ = true;
            break;
        }
        case ProgressStyle::json:
            fmt::print(stderr, "{}\n",
                       nlohmann::json{{"stage", progress.stage},
                                      {"done", progress.done},
                                      {"total", progress.total},
                                      {"elapsed_seconds", progress.elapsed_seconds},
                                      {"remaining_seconds", progress.remaining_seconds}}
                           .dump());
            break;
        default:
            fmt::print(stderr, "{}: {}\n", label_of(stage_), counts(progress));
    }
    std::fflush(stderr);
}

void ProgressView::end_line() {
    if (line_open_) {
        fmt::print(stderr, "\n");
        line_open_ = false;
    }
}

}  // namespace quantsparse::video
