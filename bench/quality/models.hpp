// The models and command lines of a table's rows.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "options.hpp"
#include "quality/table.hpp"

namespace quantsparse::bench {

/// Where one of the table's models lies or will lie.
std::filesystem::path model_file(const std::filesystem::path& work_directory,
                                 const std::string& name);

/// The file of one of the table's models: runs quantsparse-calibrate, which lies beside this
/// program, unless the file is there already. "": the table's own model. Throws Error(io); also
/// when the file there was made with other flags or from another model.
std::filesystem::path calibrated_model(const QualityTable& table,
                                       const std::filesystem::path& work_directory,
                                       const std::string& name);

/// A row's command line for a prompt, read by the very parser of quantsparse-video. `settings`: the
/// table's and the group's. Throws Error(invalid_argument) that names the row.
video::Options row_options(const QualityTable& table, const std::filesystem::path& model,
                           const std::vector<std::string>& settings, const QualityRow& row,
                           int prompt);

}  // namespace quantsparse::bench
