// A table of configurations that are compared: which ones, on which prompts, at what size. One JSON
// file; bench/quality/tables/ holds ours. `quality` measures the clips, `velocity` what the
// transformer predicts.
//
//   { "title": "...", "model": "samples/models/shapes-tiny",
//     // flags of quantsparse-video, those of the device too
//     "settings": ["--size", "128x128", "--frames", "17", "--steps", "50"],
//     // prompt i has seed first_seed + i
//     "prompts": ["...", ...], "first_seed": 100,
//     // flags of quantsparse-calibrate
//     "models": {"w4a8": ["--preset", "full", "--weights", "4"]},
//     "groups": [{"title": "Density", "expected": "falls slowly", "x": "density, %",
//                 "rows": [{"name": "25 %", "x": 25, "model": "w4a8",
//                           "flags": ["--attention", "sparse", "--density", "0.25"]}]}] }
//
// For `velocity` a group has more: "measure" (levels, path or latents), "settings" that are added
// to the table's, and "against", the name of the row that the others are paired with.
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
    std::string x_label;                ///< with it the group is drawn as a curve
    std::string measure;                ///< of `velocity`: "levels", "path", "latents" or not said
    std::vector<std::string> settings;  ///< of `velocity`: flags beside the table's
    std::string against;                ///< of `velocity`: a row's name; empty: the first
    std::vector<QualityRow> rows;

    /// The row that differences are taken to.
    const QualityRow& base() const;
};

struct QualityTable {
    std::string title;
    std::filesystem::path model;
    std::vector<std::string> settings;
    std::vector<std::string> prompts;
    std::string
        prompt_source;  ///< names a file of prompts and what it holds; empty: the table's own
    std::uint64_t first_seed = 0;
    std::map<std::string, std::vector<std::string>> models;
    std::vector<QualityGroup> groups;
};

/// Throws Error(io) or Error(bad_file) with the file's name and what is wrong.
QualityTable read_quality_table(const std::filesystem::path& file);

/// What a run measures of a table, and where everything lies.
struct TableOptions {
    std::filesystem::path table;
    std::filesystem::path model;        ///< in place of the table's; empty: the table's
    std::filesystem::path prompt_file;  ///< a prompt per line, in place of the table's
    std::vector<std::string> settings;  ///< flags of quantsparse-video after the table's own
    std::filesystem::path
        work_directory;          ///< references, calibrated models, results; kept for the next run
    std::filesystem::path json;  ///< empty: not written
    std::filesystem::path html;
    std::vector<std::string> only;  ///< titles of groups; empty: all
    int prompts = 0;                ///< 0: all of the table's
    std::string device;
    bool report_only = false;  ///< nothing is measured, the report is made from what there is
    bool plan = false;         ///< nothing is measured or written: what it would take is told
};

/// What the options make of a table. Throws Error(io) or Error(bad_file) for the file of prompts,
/// Error(invalid_argument) for a group that the table lacks.
QualityTable selected(QualityTable table, const TableOptions& options);

/// Everything that a stored result depends on apart from its row and prompt.
std::string settings_text(const QualityTable& table);

/// 16 hexadecimal digits, the same on every machine.
std::string fingerprint(const std::string& text);

/// Names a prompt's reference in a work directory: other settings or another prompt of that number
/// have another.
std::string reference_name(const QualityTable& table, const std::vector<std::string>& settings,
                           int prompt);

std::string joined(const std::vector<std::string>& words);

}  // namespace quantsparse::bench
