// quantsparse-bench quality: measures a quality table and reports it.
#pragma once

#include <filesystem>

#include "quality/table.hpp"

namespace quantsparse::bench {

struct QualityOptions : TableOptions {
    std::filesystem::path figures;  ///< JSON of bench/replay to draw beside the tables; optional
};

/// Blocks for as long as the table takes; Ctrl-C ends it after the submission at hand, and the same
/// command goes on from there. False when it was stopped.
bool run_quality(const QualityOptions& options);

}  // namespace quantsparse::bench
