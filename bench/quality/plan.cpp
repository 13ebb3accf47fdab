#include "quality/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "quality/models.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace fs = std::filesystem;
namespace {

std::uint64_t bytes_of(const fs::path& model) {
    if (fs::is_regular_file(model)) return fs::file_size(model);
    std::uint64_t bytes = 0;
    for (const auto& entry : fs::recursive_directory_iterator(model)) {
        if (entry.is_regular_file()) bytes += entry.file_size();
    }
    return bytes;
}

/// Bits of the weights that a calibration's flags ask for; the calibrator's default is 4.
std::uint64_t weight_bits(const std::vector<std::string>& flags) {
    const auto found = std::find(flags.begin(), flags.end(), "--weights");
    return found == flags.end() || found + 1 == flags.end() ? 4 : std::stoul(*(found + 1));
}

std::uint64_t free_bytes(fs::path folder) {
    folder = fs::absolute(folder);
    while (!fs::exists(folder) && folder.has_parent_path()) folder = folder.parent_path();
    return fs::space(folder).available;
}

/// The generator of the table's own model, opened again where a row keeps its weights in another
/// way.
class OwnModel {
  public:
    OwnModel(const fs::path& model, Device& device) : model_(model), device_(device) {}

    Generator& with(const PipelineOptions& options) {
        if (!generator_ || options.storage != options_.storage ||
            options.requantize != options_.requantize) {
            generator_.reset();
            generator_.emplace(model_, device_, options);
            options_ = options;
        }
        return *generator_;
    }

  private:
    const fs::path& model_;
    Device& device_;
    PipelineOptions options_;
    std::optional<Generator> generator_;
};

void add_models(const QualityTable& table, const fs::path& work_directory,
                const std::vector<PlannedRow>& rows, const ModelSummary& summary, TablePlan& plan) {
    const std::uint64_t whole = bytes_of(table.model);
    const std::uint64_t rest = whole - std::min(whole, summary.transformer_linear_bytes);
    std::set<std::string> seen;
    for (const PlannedRow& row : rows) {
        const std::string& name = row.row.model;
        if (name.empty() || !seen.insert(name).second) continue;
        if (fs::exists(model_file(work_directory, name))) continue;
        ++plan.models;
        plan.model_bytes +=
            rest + summary.transformer_linear_bf16_bytes * weight_bits(table.models.at(name)) / 16;
    }
}

}  // namespace

std::uint64_t whole_run(int steps, int branches) {
    return static_cast<std::uint64_t>(steps) * static_cast<std::uint64_t>(branches);
}

TablePlan plan_table(
    const QualityTable& table, const fs::path& work_directory, Device& device,
    const std::vector<PlannedRow>& rows,
    const std::function<std::uint64_t(const GenerationParameters& resolved)>& reference_bytes) {
    TablePlan plan;
    plan.free_bytes = free_bytes(work_directory);
    OwnModel model(table.model, device);
    const auto prompts = static_cast<std::uint64_t>(table.prompts.size());
    for (const PlannedRow& row : rows) {
        const video::Options options = row_options(table, table.model, row.settings, row.row, 0);
        Generator& generator = model.with(options.pipeline);
        const GenerationParameters p = generator.resolve(options.generation);
        const MemoryPlan memory = generator.plan(p);
        if (plan.largest.empty() || memory.peak_bytes > plan.memory.peak_bytes) {
            plan.memory = memory;
            plan.largest = row.row.name;
        }
        plan.clips += prompts;
        plan.forwards += prompts * row.forwards(*p.steps, *p.guidance_scale > 1 ? 2 : 1);
        const auto missing = std::count_if(row.files.begin(), row.files.end(),
                                           [](const fs::path& file) { return !fs::exists(file); });
        if (missing > 0) {
            plan.reference_bytes += static_cast<std::uint64_t>(missing) * reference_bytes(p);
        }
    }
    if (!rows.empty()) {
        add_models(table, work_directory, rows, model.with({}).summary(), plan);
    }
    return plan;
}

void print(const TablePlan& plan, const fs::path& work_directory) {
    fmt::print("clips          {}, references among them; {} runs of the transformer in all\n",
               plan.clips, plan.forwards);
    fmt::print("device memory  {}, most in '{}' (a bound: quantised rows take less)\n",
               bytes_text(plan.memory.peak_bytes), plan.largest);
    fmt::print("               {}\n", plan.memory.decision());
    fmt::print("disk           references to make {}", bytes_text(plan.reference_bytes));
    if (plan.models > 0) {
        fmt::print(", {} models to calibrate, about {}", plan.models, bytes_text(plan.model_bytes));
    }
    fmt::print("; {} are free at '{}'\n", bytes_text(plan.free_bytes),
               work_directory.generic_string());
}

void require_room(const TablePlan& plan, const fs::path& work_directory) {
    const std::uint64_t needed = plan.reference_bytes + plan.model_bytes;
    if (needed > plan.free_bytes) {
        throw Error(ErrorCode::io,
                    fmt::format("references and calibrated models take {}, but {} are free at "
                                "'{}': take another work directory or fewer prompts",
                                bytes_text(needed), bytes_text(plan.free_bytes),
                                work_directory.generic_string()));
    }
    plan.memory.require_fit();
}

}  // namespace quantsparse::bench
