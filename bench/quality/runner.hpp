// Generates the clips of a quality table and measures them; knows nothing of reports.
#pragma once

#include <filesystem>
#include <string>

#include "quality/plan.hpp"
#include "quality/results.hpp"
#include "quality/table.hpp"
#include "quantsparse/device.hpp"

namespace quantsparse::bench {

/// Where the film strip of a row's first prompts lies.
std::filesystem::path strip_file(const std::filesystem::path& work_directory,
                                 const std::string& identity, int prompt);
inline constexpr int kStrips = 2;  ///< prompts whose clips are shown

/// What the table's rows run, the reference first.
std::vector<PlannedRow> quality_rows(const QualityTable& table,
                                     const std::filesystem::path& work_directory);

/// Measures what `results` lacks, the reference first, then model by model. False when stopped.
bool measure(const QualityTable& table, const std::filesystem::path& work_directory, Device& device,
             ResultsFile& results);

}  // namespace quantsparse::bench
