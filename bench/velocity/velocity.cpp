#include "velocity/velocity.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "html_report.hpp"
#include "quality/run_table.hpp"
#include "report.hpp"
#include "velocity/row_facts.hpp"
#include "velocity/runner.hpp"

namespace quantsparse::bench {
namespace {

constexpr const char* kExplanation =
    "SNR is -10 log10(||v - v_ref||^2 / ||v_ref||^2) against the unquantised model with dense "
    "attention, same prompt and seed. levels: of the guided prediction on the latents of that "
    "model's own run, the mean of the decibels over five noise levels. path: the same at every "
    "step, errors averaged before the logarithm; the row keeps its residuals from step to step. "
    "latents: the row runs by itself, and its final latents are compared. ± is one standard error "
    "of the mean over prompts; Δ is paired by prompt. pairs: query-key pairs that the masks show, "
    "of dense attention's, over all steps and layers.";

/// A row's figures over its prompts.
struct RowSummary {
    std::map<int, double> values;  ///< dB, by prompt
    Estimate snr, difference;
    VelocityResult facts;  ///< of any prompt
};

std::map<int, double> values_of(Measure measure, const ResultsFile::OfRow& results) {
    std::map<int, double> values;
    for (const auto& [prompt, result] : results) {
        values[prompt] = signal_to_noise(measure, velocity_result_of(result).errors);
    }
    return values;
}

/// The seed of a calibration's flags; it is 0 where they don't say.
std::string calibration_seed(const std::vector<std::string>& flags) {
    const auto found = std::find(flags.begin(), flags.end(), "--seed");
    return found == flags.end() || found + 1 == flags.end() ? "0" : *(found + 1);
}

Json estimate_json(const Estimate& e) {
    return {{"mean", e.mean}, {"standard_error", e.standard_error}};
}

class Report {
  public:
    Report(const QualityTable& table, const TableOptions& options, const ResultsFile& results,
           const std::string& device)
        : table_(table), options_(options), results_(results), html_(table.title) {
        json_ = report_head("velocity", table, options, device);
        html_.paragraph(fmt::format("{}; commit {}; {}; {} prompts. {}", device,
                                    json_["commit"].get<std::string>(), settings_text(table),
                                    table.prompts.size(), kExplanation));
        html_.preformatted(json_["command"].get<std::string>());
    }

    void write() {
        for (const QualityGroup& group : table_.groups) add_group(group);
        add_models();
        if (!options_.json.empty()) write_json(options_.json, json_);
        if (!options_.html.empty()) html_.write(options_.html);
    }

  private:
    RowSummary summarise(const QualityGroup& group, const QualityRow& row,
                         const std::map<int, double>& base) const {
        const auto& results = results_.of(velocity_identity(group, row));
        RowSummary s;
        s.values = values_of(measure_of(group.measure), results);
        s.snr = estimate(s.values);
        s.difference = paired_difference(s.values, base);
        if (!results.empty()) s.facts = velocity_result_of(results.begin()->second);
        return s;
    }

    void add_group(const QualityGroup& group) {
        const std::string how = fmt::format(
            "Measured by {}{}{}; Δ to '{}'.", word_of(measure_of(group.measure)),
            group.settings.empty() ? "" : ", ", joined(group.settings), group.base().name);
        html_.heading(group.title);
        if (!group.expected.empty()) html_.paragraph("Expected: " + group.expected);
        html_.paragraph(how);
        fmt::print("{}\n", group.title);
        if (!group.expected.empty()) fmt::print("  expected: {}\n", group.expected);
        fmt::print("  {}\n", how);
        const auto base = values_of(measure_of(group.measure),
                                    results_.of(velocity_identity(group, group.base())));
        Json rows = Json::array();
        std::vector<std::vector<std::string>> cells;
        for (const QualityRow& row : group.rows) {
            const RowSummary s = summarise(group, row, base);
            rows.push_back(row_json(row, s));
            cells.push_back(row_cells(row, s));
            print(cells.back());
        }
        html_.table({"row", "SNR dB", "Δ dB", "dense layers", "pairs", "prompts"}, cells);
        json_["groups"].push_back({{"title", group.title},
                                   {"expected", group.expected},
                                   {"measure", word_of(measure_of(group.measure))},
                                   {"settings", joined(group.settings)},
                                   {"against", group.base().name},
                                   {"rows", rows}});
    }

    Json row_json(const QualityRow& row, const RowSummary& s) const {
        Json json{{"name", row.name},
                  {"model", row.model.empty() ? "unquantised" : row.model},
                  {"flags", joined(row.flags)},
                  {"prompts", s.snr.count}};
        if (row.x) json["x"] = *row.x;
        if (s.snr.count == 0) return json;
        json["snr_db"] = estimate_json(s.snr);
        json["difference_db"] = estimate_json(s.difference);
        json["dense_layers"] = s.facts.dense_layers;
        json["pairs"] = s.facts.pairs;
        json["steps"] = s.facts.steps;
        for (const auto& [prompt, value] : s.values) json["snr_db_by_prompt"].push_back(value);
        return json;
    }

    static std::vector<std::string> row_cells(const QualityRow& row, const RowSummary& s) {
        if (s.snr.count == 0) return {row.name, "not measured"};
        return {row.name,
                fmt::format("{:.2f} ± {:.2f}", s.snr.mean, s.snr.standard_error),
                fmt::format("{:+.2f} ± {:.2f}", s.difference.mean, s.difference.standard_error),
                std::to_string(s.facts.dense_layers),
                fmt::format("{:.3f}", s.facts.pairs),
                std::to_string(s.snr.count)};
    }

    static void print(const std::vector<std::string>& cells) {
        if (cells.size() < 6) {
            fmt::print("  {:44} {}\n", cells[0], cells[1]);
            return;
        }
        fmt::print("  {:44} {:>14} dB  ({})  {} layers dense, {} of the pairs, {} prompts\n",
                   cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]);
    }

    /// How the quantised models were made.
    void add_models() {
        if (table_.models.empty()) return;
        std::vector<std::vector<std::string>> cells;
        for (const auto& [name, flags] : table_.models) {
            cells.push_back({name, calibration_seed(flags), joined(flags)});
            json_["models"][name] = {{"calibration_seed", calibration_seed(flags)},
                                     {"flags", joined(flags)}};
        }
        html_.heading("Calibrations");
        html_.table({"model", "seed", "flags"}, cells);
    }

    const QualityTable& table_;
    const TableOptions& options_;
    const ResultsFile& results_;
    HtmlReport html_;
    Json json_;
};

}  // namespace

bool run_velocity(const TableOptions& options) {
    TableRun run;
    run.check = [](const QualityTable& table) {
        for (const QualityGroup& group : table.groups) measure_of(group.measure);
    };
    run.plan = [&](const QualityTable& table, Device& device) {
        return plan_table(table, options.work_directory, device,
                          velocity_rows(table, options.work_directory),
                          [&](const GenerationParameters& p) {
                              const auto latents = 2 * static_cast<std::uint64_t>(*p.steps) + 1;
                              return latents * sizeof(float) * latent_values(table.model, p);
                          });
    };
    run.measure = [&](const QualityTable& table, Device& device, ResultsFile& results) {
        return measure_velocities(table, options.work_directory, device, results);
    };
    run.report = [&](const QualityTable& table, const ResultsFile& results,
                     const std::string& device) {
        Report(table, options, results, device).write();
    };
    return run_table(options, run);
}

}  // namespace quantsparse::bench
