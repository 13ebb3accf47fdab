// A quality table: which configurations are compared, on which prompts, at what size. One JSON
// file; bench/quality/tables/ holds ours.
//
//   { "title": "...", "model": "samples/models/shapes-tiny",
//     "settings": ["--size", "128x128", "--frames", "17", "--steps", "50"],   flags of
//     quantsparse-video "prompts": ["...", ...], "first_seed": 100, prompt i has seed first_seed +
//     i "models": {"w4a8": ["--preset", "full", "--weights", "4"]},             flags of
//     quantsparse-calibrate "groups": [{"title": "Density", "expected": "falls slowly", "x":
//     "density, %",
//                 "rows": [{"name": "25 %", "x": 25, "model": "w4a8",
//                           "flags": ["--attention", "sparse", "--density", "0.25"]}]}] }
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace quantsparse::bench {

struct QualityRow {
    std::string name;
    std::string model;  ///< of `models`; "": the unquantised one
    std::vector<std::string> flags;
    std::optional<double> x;

    /// Rows of different groups with one identity are measured once.
    std::string identity() const;
};

struct QualityGroup {
    std::string title;
    std::string expected;
    std::string x_label;  ///< with it the group is drawn as a curve
    std::vector<QualityRow> rows;
};

struct QualityTable {
    std::string title;
    std::filesystem::path model;
    std::vector<std::string> settings;
    std::vector<std::string> prompts;
    std::uint64_t first_seed = 0;
    std::map<std::string, std::vector<std::string>> models;
    std::vector<QualityGroup> groups;
};

/// Throws Error(io) or Error(bad_file) with the file's name and what is wrong.
QualityTable read_quality_table(const std::filesystem::path& file);

std::string joined(const std::vector<std::string>& words);

}  // namespace quantsparse::bench
