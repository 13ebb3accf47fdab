// Measures the rows of a table by what the transformer predicts; knows nothing of reports.
#pragma once

#include <filesystem>
#include <string>

#include "quality/plan.hpp"
#include "quality/results.hpp"
#include "quality/table.hpp"
#include "quantsparse/device.hpp"
#include "velocity/snr.hpp"

namespace quantsparse::bench {

inline constexpr int kLevels = 5;  ///< noise levels of Measure::levels

/// What a row and prompt left.
struct VelocityResult {
    std::vector<int> steps;      ///< that were compared; empty: the final latents were
    std::vector<double> errors;  ///< relative, squared, of each
    int dense_layers = 0;
    double pairs = 1;  ///< as RowFacts
};
/// Throws Json::exception when something is missing.
VelocityResult velocity_result_of(const Json& json);

/// Names the results of a row of a group.
std::string velocity_identity(const QualityGroup& group, const QualityRow& row);

/// What the table's rows run, references first.
std::vector<PlannedRow> velocity_rows(const QualityTable& table,
                                      const std::filesystem::path& work_directory);

/// Measures what `results` lacks, the references first, then model by model. False when stopped.
bool measure_velocities(const QualityTable& table, const std::filesystem::path& work_directory,
                        Device& device, ResultsFile& results);

}  // namespace quantsparse::bench
