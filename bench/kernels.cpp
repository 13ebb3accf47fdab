#include "kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <memory>

#include "html_report.hpp"
#include "kernel_cases.hpp"
#include "measure.hpp"
#include "peak.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using program::Lifetime;
using program::Program;

/// Fastest time of each kernel in an earlier JSON of this command.
std::map<std::string, double> earlier_times(const std::filesystem::path& file) {
    std::map<std::string, double> times;
    if (file.empty()) return times;
    std::ifstream in(file);
    const Json json = Json::parse(in, nullptr, false);
    if (!json.is_object() || !json.contains("kernels")) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is no output of quantsparse-bench kernels", file.string()));
    }
    for (const Json& entry : json.at("kernels")) {
        times[entry.at("name").get<std::string>()] = entry.at("min_ms").get<double>();
    }
    return times;
}

std::unique_ptr<program::Executor> make_executor(Device& device, const KernelCase& c,
                                                 const KernelOptions& options) {
    program::Limits limits = pipeline::device_limits(device.internal());
    limits.matrix_tile = options.matrix_tile;
    Program program(limits);
    c.build(program);
    auto executor = std::make_unique<program::Executor>(device.internal(), program, true);
    for (std::uint32_t id = 0; id < program.tensors().size(); ++id) {
        if (program.tensors()[id].lifetime != Lifetime::transient) {
            fill_with_noise(*executor, {id});
        }
    }
    if (c.prepare) c.prepare(*executor);
    return executor;
}

/// The kernels' lines on the terminal, their entries in the JSON and their bars in the report.
class Table {
  public:
    Table(double peak, std::map<std::string, double> earlier)
        : peak_(peak), earlier_(std::move(earlier)) {
        fmt::print("{:<50}{:>10}{:>10}{:>9}{:>8}{:>8}{}\n", "kernel", "min ms", "median", "GOP/s",
                   "GB/s", "share", earlier_.empty() ? "" : "   earlier");
    }

    Json& add(const KernelCase& c, const Timing& timing) {
        const double rate = c.operations / timing.min_ms * 1e3;
        const double bandwidth = c.bytes / timing.min_ms * 1e3;
        const auto before = earlier_.find(c.name);
        fmt::print("{:<50}{:>10.2f}{:>10.2f}{:>9.1f}{:>8.2f}{:>7.2f}{}\n", c.name, timing.min_ms,
                   timing.median_ms, rate * 1e-9, bandwidth * 1e-9, rate / peak_,
                   before == earlier_.end()
                       ? std::string()
                       : fmt::format("   x{:.2f}", before->second / timing.min_ms));
        Json entry = timing_json(timing);
        entry["name"] = c.name;
        entry["kind"] = c.kind;
        entry["bytes_a_second"] = bandwidth;
        if (c.operations > 0) {
            entry["operations_a_second"] = rate;
            entry["share_of_peak"] = rate / peak_;
            bars_.push_back(
                {c.name, rate / peak_,
                 fmt::format("{:.1f} GOP/s, {:.2f} of the peak", rate * 1e-9, rate / peak_)});
        }
        if (timing.parts.size() > 1) {
            std::string line;
            for (const auto& [part, ms] : timing.parts) {
                line += fmt::format("{}{} {:.1f}", line.empty() ? "" : ", ", part, ms);
                entry["parts_min_ms"][part] = ms;
            }
            fmt::print("{:<50}{} ms\n", "", line);
        }
        return json_.emplace_back(std::move(entry));
    }

    const Json& json() const { return json_; }
    const std::vector<Bar>& bars() const { return bars_; }

  private:
    double peak_;
    std::map<std::string, double> earlier_;
    Json json_ = Json::array();
    std::vector<Bar> bars_;
};

/// What part of another case's time one takes, run by run: median and range.
struct Share {
    double median, least, most;
};
Share share_of_time(const Timing& timing, const Timing& of) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < of.runs_ms.size(); ++i) {
        ratios.push_back(timing.runs_ms[i] / of.runs_ms[i]);
    }
    std::sort(ratios.begin(), ratios.end());
    return {ratios[ratios.size() / 2], ratios.front(), ratios.back()};
}

/// Attention in turns: dense beside sparse and what part of the time is left, and if asked for the
/// same in codes of eight bits.
void add_comparison(Table& table, Device& device, const KernelCase& c,
                    const KernelOptions& options) {
    std::vector<const KernelCase*> cases;
    if (c.dense) cases.push_back(c.dense.get());
    cases.push_back(&c);
    if (options.codes) {
        for (const auto& other : c.in_codes) cases.push_back(other.get());
    }
    std::vector<std::unique_ptr<program::Executor>> executors;
    std::vector<program::Executor*> turns;
    for (const KernelCase* one : cases) {
        executors.push_back(make_executor(device, *one, options));
        turns.push_back(executors.back().get());
    }
    const auto timings = time_in_turns(turns, options.repeats);
    const std::size_t full = c.dense ? 1 : 0;
    if (c.dense) table.add(*c.dense, timings[0]);
    Json& entry = table.add(c, timings[full]);
    if (c.dense) {
        const Share share = share_of_time(timings[full], timings[0]);
        fmt::print(
            "{:<50}{:.3f} of the dense time ({:.3f} to {:.3f}), {:.2f} x the block density "
            "{:.4f}\n",
            "", share.median, share.least, share.most, share.median / c.block_density,
            c.block_density);
        entry["of_dense_time"] = share.median;
        entry["of_dense_time_range"] = {share.least, share.most};
        entry["block_density"] = c.block_density;
        entry["of_block_density"] = share.median / c.block_density;
    }
    for (std::size_t i = full + 1; i < cases.size(); ++i) {
        Json& in_codes = table.add(*cases[i], timings[i]);
        const Share share = share_of_time(timings[i], timings[full]);
        fmt::print("{:<50}{:.3f} of the time without codes ({:.3f} to {:.3f})\n", "", share.median,
                   share.least, share.most);
        in_codes["of_full_time"] = share.median;
        in_codes["of_full_time_range"] = {share.least, share.most};
    }
}

}  // namespace

void run_kernels(const KernelOptions& options) {
    auto earlier = earlier_times(options.compare);
    Device device(options.device);
    const Peaks peaks = measure_peaks(device, options.repeats);
    fmt::print("device {} ({}), arithmetic {}, best peak {:.1f} GOP/s\n", device.info().name,
               device.info().driver, arithmetic_name(device.arithmetic()),
               peaks.best_operations * 1e-9);
    Table table(peaks.best_operations, std::move(earlier));
    const program::Limits limits = pipeline::device_limits(device.internal());
    for (const KernelCase& c : kernel_cases(options.tokens, options.density, limits)) {
        if (!options.only.empty() &&
            std::find(options.only.begin(), options.only.end(), c.kind) == options.only.end()) {
            continue;
        }
        if (c.dense || (options.codes && !c.in_codes.empty())) {
            add_comparison(table, device, c, options);
            continue;
        }
        const auto executor = make_executor(device, c, options);
        table.add(c, time_phase(*executor, options.repeats, c.operation));
    }
    Json document = device_json(device);
    document["best_peak_operations_a_second"] = peaks.best_operations;
    document["kernels"] = table.json();
    if (!options.json.empty()) write_json(options.json, document);
    if (!options.html.empty()) {
        HtmlReport html("Kernels on " + device.info().name);
        html.paragraph(
            fmt::format("{}, {} arithmetic; shortest of {} runs; the peak is the best of "
                        "quantsparse-bench peak in the same run, {:.1f} GOP/s.",
                        device.info().driver, arithmetic_name(device.arithmetic()), options.repeats,
                        peaks.best_operations * 1e-9));
        html.bar_chart("Share of the arithmetic peak", table.bars());
        html.write(options.html);
    }
}

}  // namespace quantsparse::bench
