// The calibration from model to model file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/learn_block.hpp"
#include "calib/options.hpp"
#include "calib/quantize_block.hpp"
#include "calib/quantized_block.hpp"
#include "format/model_file.hpp"

namespace quantsparse::calib {

struct BlockReport {
    std::size_t linears = 0;  ///< that are quantised
    BlockErrors errors;
    LearningReport learning;  ///< of the presets that learn, unless the block was taken over
    double seconds = 0;
    std::uint64_t peak_bytes = 0;  ///< memory of the process so far
};

struct CalibrationSummary {
    format::LinearBytes bytes;  ///< of the block linears
    std::uint64_t file_bytes = 0;
    std::vector<LinearReport> reports;  ///< of all linears, block by block; empty at 16 bits
    std::vector<BlockReport> blocks;
    std::vector<float> drift;  ///< for the runtime to place refreshes by; may be empty
    double guidance = 1;       ///< scale of the calibration clips
    int resumed_blocks = 0;    ///< taken over from an interrupted run
    bool resumed_activations = false;
    double seconds = 0;
};

/// Throws Error(invalid_argument) for options that contradict each other or are out of range.
void check_options(const CalibrationOptions& options);

/// Where the data of unfinished calibrations lie: the option, or "<output>.partial".
std::filesystem::path work_directory(const CalibrationOptions& options);

/// Blocks until `options.output` is written. Throws Error, or Cancelled (progress.hpp); in both
/// cases no output is left and the work directory allows to go on.
CalibrationSummary calibrate(const CalibrationOptions& options, bool show_progress);

}  // namespace quantsparse::calib
