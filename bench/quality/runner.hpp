// Generates the clips of a quality table and measures them; knows nothing of reports.
#pragma once

#include <functional>

#include "quality/quality.hpp"
#include "quality/results.hpp"
#include "quality/table.hpp"
#include "quantsparse/device.hpp"

namespace quantsparse::bench {

/// The groups and prompts that the options leave of a table.
QualityTable selected(QualityTable table, const QualityOptions& options);

/// Everything that a stored result depends on apart from its row and prompt.
std::string settings_text(const QualityTable& table);

/// Where the film strip of a row's first prompts lies.
std::filesystem::path strip_file(const std::filesystem::path& work_directory,
                                 const std::string& identity, int prompt);
inline constexpr int kStrips = 2;  ///< prompts whose clips are shown

/// Measures what `results` lacks, the reference first, then model by model. False when stopped.
bool measure(const QualityTable& table, const std::filesystem::path& work_directory, Device& device,
             ResultsFile& results);

}  // namespace quantsparse::bench
