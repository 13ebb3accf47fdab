#include "kernels.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "html_report.hpp"
#include "kernel_cases.hpp"
#include "measure.hpp"
#include "peak.hpp"
#include "pipeline/stages.hpp"
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

Timing time_case(Device& device, const KernelCase& c, const KernelOptions& options) {
    program::Limits limits = pipeline::device_limits(device.internal());
    limits.matrix_tile = options.matrix_tile;
    Program program(limits);
    c.build(program);
    program::Executor executor(device.internal(), program, true);
    for (std::uint32_t id = 0; id < program.tensors().size(); ++id) {
        if (program.tensors()[id].lifetime != Lifetime::transient) {
            fill_with_noise(executor, {id});
        }
    }
    if (c.prepare) c.prepare(executor);
    return time_phase(executor, options.repeats, c.operation);
}

}  // namespace

void run_kernels(const KernelOptions& options) {
    const auto earlier = earlier_times(options.compare);
    Device device(options.device);
    const Peaks peaks = measure_peaks(device, options.repeats);
    fmt::print("device {} ({}), arithmetic {}, best peak {:.1f} GOP/s\n", device.info().name,
               device.info().driver, arithmetic_name(device.arithmetic()),
               peaks.best_operations * 1e-9);
    fmt::print("{:<50}{:>10}{:>10}{:>9}{:>8}{:>8}{}\n", "kernel", "min ms", "median", "GOP/s",
               "GB/s", "share", earlier.empty() ? "" : "   earlier");
    HtmlReport html("Kernels on " + device.info().name);
    std::vector<Bar> bars;
    Json document = device_json(device);
    document["best_peak_operations_a_second"] = peaks.best_operations;
    std::map<std::string, double> fastest;
    const program::Limits limits = pipeline::device_limits(device.internal());
    for (const KernelCase& c : kernel_cases(options.tokens, options.density, limits)) {
        if (!options.only.empty() &&
            std::find(options.only.begin(), options.only.end(), c.kind) == options.only.end()) {
            continue;
        }
        const Timing timing = time_case(device, c, options);
        const double rate = c.operations / timing.min_ms * 1e3;
        const double share = rate / peaks.best_operations;
        const double bandwidth = c.bytes / timing.min_ms * 1e3;
        const auto before = earlier.find(c.name);
        fastest[c.name] = timing.min_ms;
        fmt::print("{:<50}{:>10.2f}{:>10.2f}{:>9.1f}{:>8.2f}{:>7.2f}{}\n", c.name, timing.min_ms,
                   timing.median_ms, rate * 1e-9, bandwidth * 1e-9, share,
                   before == earlier.end()
                       ? std::string()
                       : fmt::format("   x{:.2f}", before->second / timing.min_ms));
        Json entry = timing_json(timing);
        if (!c.dense.empty()) {
            const double ratio = timing.min_ms / fastest.at(c.dense);
            fmt::print("{:<50}{:.3f} of the dense time, {:.2f} x the block density {:.4f}\n", "",
                       ratio, ratio / c.block_density, c.block_density);
            entry["of_dense_time"] = ratio;
            entry["block_density"] = c.block_density;
            entry["of_block_density"] = ratio / c.block_density;
        }
        entry["name"] = c.name;
        entry["kind"] = c.kind;
        if (c.operations > 0) {
            entry["operations_a_second"] = rate;
            entry["share_of_peak"] = share;
            bars.push_back({c.name, share,
                            fmt::format("{:.1f} GOP/s, {:.2f} of the peak", rate * 1e-9, share)});
        }
        entry["bytes_a_second"] = bandwidth;
        document["kernels"].push_back(entry);
    }
    if (!options.json.empty()) write_json(options.json, document);
    if (!options.html.empty()) {
        html.paragraph(
            fmt::format("{}, {} arithmetic; shortest of {} runs; the peak is the best of "
                        "quantsparse-bench peak in the same run, {:.1f} GOP/s.",
                        device.info().driver, arithmetic_name(device.arithmetic()), options.repeats,
                        peaks.best_operations * 1e-9));
        html.bar_chart("Share of the arithmetic peak", bars);
        html.write(options.html);
    }
}

}  // namespace quantsparse::bench
