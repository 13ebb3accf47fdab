#include "quality/run_table.hpp"

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <memory>

#include "interrupt.hpp"
#include "quality/models.hpp"

namespace quantsparse::bench {
namespace {

/// The commit this was built from, as git tells it where the program runs; "unknown" elsewhere.
std::string current_commit() {
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen("git rev-parse --short HEAD 2>/dev/null", "r"),
                                               pclose);
    std::array<char, 64> line{};
    if (!pipe || !std::fgets(line.data(), line.size(), pipe.get())) return "unknown";
    std::string text = line.data();
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

/// What repeats the measurement.
std::string command_line(const std::string& subcommand, const TableOptions& options) {
    std::string command =
        fmt::format("quantsparse-bench {} --table {}", subcommand, options.table.generic_string());
    if (!options.model.empty()) {
        command += fmt::format(" --model {}", options.model.filename().generic_string());
    }
    if (!options.prompt_file.empty()) {
        command += fmt::format(" --prompt-file {}", options.prompt_file.filename().string());
    }
    if (!options.settings.empty()) command += " " + joined(options.settings);
    if (options.prompts > 0) command += fmt::format(" --prompts {}", options.prompts);
    for (const std::string& group : options.only) command += fmt::format(" --only \"{}\"", group);
    return command;
}

}  // namespace

bool run_table(const TableOptions& options, const TableRun& run) {
    const QualityTable table = selected(read_quality_table(options.table), options);
    run.check(table);
    DeviceOptions device_options = row_options(table, table.model, table.settings, {}, 0).device;
    if (!options.device.empty()) device_options.selector = options.device;
    Device device(device_options);
    if (!options.report_only) {
        const TablePlan plan = run.plan(table, device);
        if (options.plan) {
            print(plan, options.work_directory);
            return true;
        }
        require_room(plan, options.work_directory);
    }
    std::filesystem::create_directories(options.work_directory);
    ResultsFile results(options.work_directory / "results.jsonl", settings_text(table));
    video::watch_for_interrupts();
    const bool complete = options.report_only || run.measure(table, device, results);
    run.report(table, results,
               fmt::format("{}, {}, {} arithmetic", device.info().name, device.info().driver,
                           arithmetic_name(device.arithmetic())));
    if (!complete) {
        fmt::print(stderr, "stopped; the same command goes on from '{}'\n",
                   options.work_directory.string());
    }
    return complete;
}

Json report_head(const std::string& subcommand, const QualityTable& table,
                 const TableOptions& options, const std::string& device) {
    return {{"title", table.title},
            {"device", device},
            {"commit", current_commit()},
            {"command", command_line(subcommand, options)},
            {"settings", settings_text(table)},
            {"prompts", table.prompts}};
}

}  // namespace quantsparse::bench
