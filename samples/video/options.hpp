// The command line of quantsparse-video.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "frame_rate.hpp"
#include "progress_view.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::video {

struct Options {
    ModelFiles model;
    GenerationParameters generation;
    DeviceOptions device;
    PipelineOptions pipeline;

    std::vector<std::string> outputs;
    std::string format;
    std::optional<FrameRate> fps;  ///< not set: the model's own
    int crf = -1;
    std::filesystem::path preview;  ///< empty: none
    int preview_interval = 5;
    std::filesystem::path latents;  ///< empty: not saved

    bool list_devices = false;
    bool tune = false;
    bool plan = false;
    bool json = false;
    std::filesystem::path profile_file;  ///< empty: a table on standard error
    ProgressStyle progress = ProgressStyle::automatic;
    bool quiet = false;
    std::vector<std::string> warnings;  ///< about the command line, a line each
};

/// The options, or the exit code when there is nothing more to do (--help, --version, wrong usage).
struct ParseResult {
    Options options;
    std::optional<int> exit_code;
};

ParseResult parse_options(int argc, char** argv);

/// "832x480" to width and height. Throws Error(invalid_argument).
std::pair<int, int> parse_picture_size(const std::string& text);

/// "512M", "4G", "1.5GiB" or bytes. Throws Error(invalid_argument) that names `field`.
std::uint64_t parse_size(const std::string& text, const std::string& field);

}  // namespace quantsparse::video
