// quantsparse-bench quality: measures a quality table and reports it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quantsparse::bench {

struct QualityOptions {
    std::filesystem::path table;
    std::filesystem::path
        work_directory;          ///< clips, calibrated models, results; kept for the next run
    std::filesystem::path json;  ///< empty: not written
    std::filesystem::path html;
    std::filesystem::path figures;  ///< JSON of bench/replay to draw beside the tables; optional
    std::vector<std::string> only;  ///< titles of groups; empty: all
    int prompts = 0;                ///< 0: all of the table's
    std::string device;
    bool report_only = false;  ///< nothing is measured, the report is made from what there is
};

/// Blocks for as long as the table takes; Ctrl-C ends it after the submission at hand, and the same
/// command goes on from there. False when it was stopped.
bool run_quality(const QualityOptions& options);

}  // namespace quantsparse::bench
