#include "quality/quality.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>

#include "html_report.hpp"
#include "quality/clip_result.hpp"
#include "quality/run_table.hpp"
#include "quality/runner.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace fs = std::filesystem;
namespace {

/// A row's figures over its prompts.
struct RowSummary {
    Estimate psnr, ssim, gmsd;
    Estimate difference;  ///< of the PSNR to the group's first row, paired by prompt
    int judged = 0;       ///< clips whose prompt the checker understands
    int right = 0;        ///< of those, with colour, background, shape and motion as asked

    std::string followed() const {
        return judged == 0 ? "–" : fmt::format("{:.0f} %", 100.0 * right / judged);
    }
};

std::map<int, double> over(const ResultsFile::OfRow& results, double ClipResult::*value) {
    std::map<int, double> values;
    for (const auto& [prompt, result] : results) values[prompt] = clip_result_of(result).*value;
    return values;
}

RowSummary summarise(const ResultsFile::OfRow& results, const ResultsFile::OfRow& first) {
    const auto psnr = over(results, &ClipResult::psnr);
    RowSummary s{estimate(psnr),
                 estimate(over(results, &ClipResult::ssim)),
                 estimate(over(results, &ClipResult::gmsd)),
                 paired_difference(psnr, over(first, &ClipResult::psnr)),
                 0,
                 0};
    for (const auto& [prompt, result] : results) {
        const ClipResult clip = clip_result_of(result);
        s.judged += clip.followed.has_value();
        s.right += clip.followed && clip.followed->all();
    }
    return s;
}

Json row_json(const QualityRow& row, const RowSummary& s) {
    Json json{{"name", row.name},
              {"model", row.model.empty() ? "unquantised" : row.model},
              {"flags", joined(row.flags)},
              {"clips", s.psnr.count}};
    if (row.x) json["x"] = *row.x;
    json["psnr_db"] = {{"mean", s.psnr.mean}, {"standard_error", s.psnr.standard_error}};
    json["psnr_to_first_row_db"] = {{"mean", s.difference.mean},
                                    {"standard_error", s.difference.standard_error}};
    json["ssim"] = s.ssim.mean;
    json["gmsd"] = s.gmsd.mean;
    if (s.judged > 0) json["prompt_right"] = static_cast<double>(s.right) / s.judged;
    return json;
}

std::vector<std::string> row_cells(const QualityRow& row, const RowSummary& s) {
    if (s.psnr.count == 0) return {row.name, "not measured"};
    return {row.name,
            fmt::format("{:.2f} ± {:.2f}", s.psnr.mean, s.psnr.standard_error),
            fmt::format("{:+.2f} ± {:.2f}", s.difference.mean, s.difference.standard_error),
            fmt::format("{:.4f}", s.ssim.mean),
            fmt::format("{:.4f}", s.gmsd.mean),
            s.followed(),
            std::to_string(s.psnr.count)};
}

void add_strips(HtmlReport& html, const fs::path& work_directory, const std::string& identity,
                const std::string& caption) {
    for (int prompt = 0; prompt < kStrips; ++prompt) {
        const fs::path file = strip_file(work_directory, identity, prompt);
        std::ifstream in(file, std::ios::binary);
        if (!in) continue;
        const std::vector<std::uint8_t> png{std::istreambuf_iterator<char>(in), {}};
        html.picture(png, fmt::format("{}, prompt {}", caption, prompt));
    }
}

/// Curves over steps or layers that bench/replay left: {"charts": [{title, x, y, series: {name:
/// [...]}}]}.
void add_figures(HtmlReport& html, const fs::path& file) {
    std::ifstream in(file);
    const Json json = Json::parse(in, nullptr, false);
    if (!json.is_object() || !json.contains("charts")) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' holds no charts: write it with bench/replay", file.string()));
    }
    html.heading("What happens inside");
    for (const Json& entry : json.at("charts")) {
        LineChart chart{entry.at("title").get<std::string>(),
                        entry.at("x_label").get<std::string>(),
                        entry.at("y_label").get<std::string>(),
                        {},
                        entry.value("log_x", false)};
        for (const Json& s : entry.at("series")) {
            chart.series.push_back({s.at("name").get<std::string>(),
                                    s.at("x").get<std::vector<double>>(),
                                    s.at("y").get<std::vector<double>>(),
                                    {}});
        }
        html.line_chart(chart);
    }
}

class Report {
  public:
    Report(const QualityTable& table, const QualityOptions& options, const ResultsFile& results,
           const std::string& device)
        : table_(table), options_(options), results_(results), html_(table.title) {
        json_ = report_head("quality", table, options, device);
        for (const auto& [name, flags] : table.models) json_["models"][name] = joined(flags);
        html_.paragraph(
            fmt::format("{}; commit {}; {}; {} prompts. PSNR, SSIM and GMSD are against "
                        "the unquantised model with dense attention, same prompt and "
                        "seed; ± is the standard error of the mean; Δ is paired by "
                        "prompt with the group's first row.",
                        device, json_["commit"].get<std::string>(), settings_text(table),
                        table.prompts.size()));
        html_.preformatted(json_["command"].get<std::string>());
    }

    void write() {
        for (const QualityGroup& group : table_.groups) add_group(group);
        if (!options_.figures.empty()) add_figures(html_, options_.figures);
        html_.heading("Clips");
        add_strips(html_, options_.work_directory, "reference", "reference");
        for (const QualityGroup& group : table_.groups) {
            for (const QualityRow& row : group.rows) {
                add_strips(html_, options_.work_directory, row.identity(),
                           group.title + ": " + row.name);
            }
        }
        if (!options_.json.empty()) write_json(options_.json, json_);
        if (!options_.html.empty()) html_.write(options_.html);
    }

  private:
    void add_group(const QualityGroup& group) {
        html_.heading(group.title);
        if (!group.expected.empty()) html_.paragraph("Expected: " + group.expected);
        fmt::print("{}\n", group.title);
        if (!group.expected.empty()) fmt::print("  expected: {}\n", group.expected);
        Json rows = Json::array();
        std::vector<std::vector<std::string>> cells;
        Series curve{"PSNR", {}, {}, {}};
        const auto& first = results_.of(group.rows.front().identity());
        for (const QualityRow& row : group.rows) {
            const RowSummary s = summarise(results_.of(row.identity()), first);
            rows.push_back(row_json(row, s));
            cells.push_back(row_cells(row, s));
            if (row.x && s.psnr.count > 0) {
                curve.x.push_back(*row.x);
                curve.y.push_back(s.psnr.mean);
                curve.error.push_back(s.psnr.standard_error);
            }
            fmt::print("  {:44} {}\n", row.name,
                       s.psnr.count == 0
                           ? std::string("not measured")
                           : fmt::format("{:6.2f} ± {:.2f} dB  ({:+.2f} ± {:.2f})  SSIM {:.4f}  "
                                         "prompt followed {}",
                                         s.psnr.mean, s.psnr.standard_error, s.difference.mean,
                                         s.difference.standard_error, s.ssim.mean, s.followed()));
        }
        html_.table({"row", "PSNR dB", "Δ dB", "SSIM", "GMSD", "prompt followed", "clips"}, cells);
        if (!group.x_label.empty())
            html_.line_chart({group.title, group.x_label, "PSNR, dB", {curve}});
        json_["groups"].push_back(
            {{"title", group.title}, {"expected", group.expected}, {"rows", rows}});
    }

    const QualityTable& table_;
    const QualityOptions& options_;
    const ResultsFile& results_;
    HtmlReport html_;
    Json json_;
};

/// A group that says how it is measured belongs to `velocity`.
void require_clips(const QualityTable& table) {
    for (const QualityGroup& group : table.groups) {
        if (!group.measure.empty() || !group.settings.empty() || !group.against.empty()) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("group '{}' is for `velocity`, not for `quality`: use that, or "
                                    "take out measure, settings and against",
                                    group.title));
        }
    }
}

}  // namespace

bool run_quality(const QualityOptions& options) {
    TableRun run;
    run.check = require_clips;
    run.plan = [&](const QualityTable& table, Device& device) {
        return plan_table(table, options.work_directory, device,
                          quality_rows(table, options.work_directory),
                          [](const GenerationParameters& p) {
                              const auto side = [](int n) { return static_cast<std::uint64_t>(n); };
                              return 3 * side(*p.width) * side(*p.height) * side(*p.frames);
                          });
    };
    run.measure = [&](const QualityTable& table, Device& device, ResultsFile& results) {
        return measure(table, options.work_directory, device, results);
    };
    run.report = [&](const QualityTable& table, const ResultsFile& results,
                     const std::string& device) {
        Report(table, options, results, device).write();
    };
    return run_table(options, run);
}

}  // namespace quantsparse::bench
