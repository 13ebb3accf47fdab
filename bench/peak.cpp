#include "peak.hpp"

#include <fmt/format.h>
#include <shaders/peak.hpp>

#include <algorithm>
#include <bit>

#include "kernels/copy.hpp"
#include "measure.hpp"
#include "pipeline/stage.hpp"

namespace quantsparse::bench {
namespace {

using shaders::ShaderId;

using Push = shaders::peak::Push;

/// Long enough that starting the work does not show, short enough for any driver's patience.
constexpr double kWantedMs = 40;
constexpr double kMostSteps = 1 << 22;

/// Operations a second of one variant; `per_step`: operations of a step of one chain.
PeakFigure arithmetic_peak(Device& device, const std::string& name, ShaderId shader,
                           double per_step, std::uint32_t factor, std::uint32_t offset,
                           int repeats) {
    const program::Limits limits = pipeline::device_limits(device.internal());
    const std::uint32_t lanes = limits.runs_on_cpu ? 8 : 64;
    // CPU drivers have 16 vector registers a core, a vec4 chain takes 4 of them.
    const std::uint32_t chains = limits.runs_on_cpu ? 3 : 8;
    const std::uint32_t groups = limits.runs_on_cpu ? 64 : 8192;
    const auto time_steps = [&](std::uint32_t steps, int times) {
        program::Program program(limits);
        const auto out =
            program.add("sums", std::uint64_t{16} * groups * lanes, program::Lifetime::persistent);
        program.dispatch(name, shader, {lanes, chains}, {program::write(out)},
                         Push{steps, factor, offset}, {groups, 1, 1},
                         per_step * chains * steps * groups * lanes);
        program::Executor executor(device.internal(), program, true);
        return time_phase(executor, times);
    };
    std::uint32_t steps = 64;
    Timing timing = time_steps(steps, 1);
    while (timing.min_ms < kWantedMs / 4 && steps < kMostSteps) {
        const double factor_up = std::clamp(kWantedMs / std::max(timing.min_ms, 1e-3), 2.0, 64.0);
        steps = static_cast<std::uint32_t>(std::min(kMostSteps, steps * factor_up));
        timing = time_steps(steps, 1);
    }
    timing = time_steps(steps, repeats);
    const double operations = per_step * chains * steps * groups * lanes;
    return {name, operations / timing.min_ms * 1e3, operations / timing.median_ms * 1e3,
            "operations"};
}

/// The same of the matrix units: `shape` of one product, groups of full subgroups.
PeakFigure matrix_peak(Device& device, const std::string& name, ShaderId shader,
                       const MatrixShape& shape, int repeats) {
    constexpr std::uint32_t kGroups = 4096, kSubgroups = 4, kChains = 8, kSteps = 2048;
    const program::Limits limits = pipeline::device_limits(device.internal());
    program::Program program(limits);
    const auto out =
        program.add("sums", std::uint64_t{4} * shape.m * shape.n * kSubgroups * kGroups,
                    program::Lifetime::persistent);
    const double operations = 2.0 * shape.m * shape.n * shape.k * kChains * kSteps * kSubgroups *
                              static_cast<double>(kGroups);
    program.dispatch(name, shader,
                     {kSubgroups * limits.subgroup, kChains, shape.m, shape.n, shape.k},
                     {program::write(out)}, Push{kSteps, 1, 1}, {kGroups, 1, 1}, operations);
    program::Executor executor(device.internal(), program, true);
    const Timing timing = time_phase(executor, repeats);
    return {name, operations / timing.min_ms * 1e3, operations / timing.median_ms * 1e3,
            "operations"};
}

/// Bytes a second read and written by a plain copy.
PeakFigure copy_peak(Device& device, int repeats) {
    const program::Limits limits = pipeline::device_limits(device.internal());
    const std::uint64_t bytes = std::min<std::uint64_t>(64ull << 20, limits.max_binding_bytes);
    program::Program program(limits);
    const auto from = program.add("from", bytes, program::Lifetime::persistent);
    const auto to = program.add("to", bytes, program::Lifetime::persistent);
    kernels::copy(program, "copy", from, to, static_cast<int>(bytes / 4));
    program::Executor executor(device.internal(), program, true);
    const Timing timing = time_phase(executor, repeats);
    const double moved = 2.0 * static_cast<double>(bytes);
    return {"memory copy", moved / timing.min_ms * 1e3, moved / timing.median_ms * 1e3, "bytes"};
}

}  // namespace

Peaks measure_peaks(Device& device, int repeats) {
    Peaks peaks;
    const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value); };
    peaks.figures.push_back(arithmetic_peak(device, "fp32", ShaderId::peak_float, 8, bits(0.999f),
                                            bits(0.001f), repeats));
    if (device.info().half_arithmetic) {
        peaks.figures.push_back(arithmetic_peak(device, "fp16 packed", ShaderId::peak_half, 8,
                                                bits(0.999f), bits(0.001f), repeats));
    }
    peaks.figures.push_back(
        arithmetic_peak(device, "int32", ShaderId::peak_integer, 8, 3, 7, repeats));
    if (device.info().integer_dot_product) {
        peaks.figures.push_back(
            arithmetic_peak(device, "int8 dot", ShaderId::peak_dot, 32, 0x01020301, 5, repeats));
    }
    if (device.arithmetic() == Arithmetic::matrix) {
        peaks.figures.push_back(matrix_peak(device, "int8 matrix", ShaderId::peak_matrix_int8,
                                            device.info().matrix_int8, repeats));
        peaks.figures.push_back(matrix_peak(device, "half matrix", ShaderId::peak_matrix_half,
                                            device.info().matrix_half, repeats));
    }
    for (const PeakFigure& figure : peaks.figures) {
        peaks.best_operations = std::max(peaks.best_operations, figure.rate);
    }
    peaks.figures.push_back(copy_peak(device, repeats));
    return peaks;
}

void run_peak(const DeviceOptions& device_options, int repeats, const std::filesystem::path& json) {
    Device device(device_options);
    const Peaks peaks = measure_peaks(device, repeats);
    fmt::print("device {} ({})\n", device.info().name, device.info().driver);
    Json figures = Json::array();
    for (const PeakFigure& figure : peaks.figures) {
        fmt::print("{:<14}{:>10.1f} G{}/s at the min, {:.1f} at the median of {}\n", figure.name,
                   figure.rate * 1e-9, figure.unit == "bytes" ? "B" : "OP",
                   figure.median_rate * 1e-9, repeats);
        figures.push_back({{"name", figure.name},
                           {"unit", figure.unit + " a second"},
                           {"at_min", figure.rate},
                           {"at_median", figure.median_rate}});
    }
    if (json.empty()) return;
    Json document = device_json(device);
    document["repeats"] = repeats;
    document["peaks"] = figures;
    write_json(json, document);
}

}  // namespace quantsparse::bench
