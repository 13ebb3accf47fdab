// What measuring a table takes, known before anything is measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "quality/table.hpp"
#include "quantsparse/device.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::bench {

/// A command line that is run once for each prompt.
struct PlannedRow {
    std::vector<std::string> settings;  ///< the table's and the group's
    QualityRow row;
    /// Of a reference: what is kept of each prompt, for the other rows to be compared with.
    std::vector<std::filesystem::path> files;
    /// How often the transformer is run for a prompt, given its steps and the branches of one.
    std::function<std::uint64_t(int steps, int branches)> forwards;
};

/// All steps in all branches.
std::uint64_t whole_run(int steps, int branches);

struct TablePlan {
    std::uint64_t clips = 0;            ///< rows times prompts, references too
    std::uint64_t forwards = 0;         ///< of the transformer, in all
    MemoryPlan memory;                  ///< of the row that takes most, were it not quantised
    std::string largest;                ///< that row's name
    std::uint64_t reference_bytes = 0;  ///< that are not there yet
    int models = 0;                     ///< that are not calibrated yet
    std::uint64_t model_bytes = 0;
    std::uint64_t free_bytes = 0;  ///< where the work directory is or will be
};

/// `reference_bytes`: of one prompt's reference. Opens the table's model, calibrates none.
TablePlan plan_table(
    const QualityTable& table, const std::filesystem::path& work_directory, Device& device,
    const std::vector<PlannedRow>& rows,
    const std::function<std::uint64_t(const GenerationParameters& resolved)>& reference_bytes);

void print(const TablePlan& plan, const std::filesystem::path& work_directory);

/// Throws Error(io) when the disk lacks room, Error(out_of_memory) when the device does.
void require_room(const TablePlan& plan, const std::filesystem::path& work_directory);

}  // namespace quantsparse::bench
