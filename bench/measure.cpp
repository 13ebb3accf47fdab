#include "measure.hpp"

#include <algorithm>
#include <cstdint>

namespace quantsparse::bench {
namespace {

/// Of all runs so far, in ms by name.
std::map<std::string, double> collected(const program::Executor& executor,
                                        const std::string& name) {
    std::map<std::string, double> sums;
    for (const auto& operation : executor.profile()) {
        if (name.empty() || operation.name == name) sums[operation.name] += operation.milliseconds;
    }
    return sums;
}

}  // namespace

Timing time_phase(program::Executor& executor, int repeats, const std::string& operation) {
    return time_in_turns({&executor}, repeats, operation).front();
}

std::vector<Timing> time_in_turns(const std::vector<program::Executor*>& executors, int repeats,
                                  const std::string& operation) {
    std::vector<Timing> timings(executors.size());
    for (program::Executor* executor : executors) executor->run(0);
    for (int i = 0; i < repeats; ++i) {
        for (std::size_t e = 0; e < executors.size(); ++e) {
            auto before = collected(*executors[e], operation);
            executors[e]->run(0);
            double sum = 0;
            for (const auto& [name, total] : collected(*executors[e], operation)) {
                const double time = total - before[name];
                sum += time;
                const auto [shortest, first] = timings[e].parts.emplace(name, time);
                if (!first) shortest->second = std::min(shortest->second, time);
            }
            timings[e].runs_ms.push_back(sum);
        }
    }
    for (Timing& timing : timings) {
        std::vector<double> sorted = timing.runs_ms;
        std::sort(sorted.begin(), sorted.end());
        timing.min_ms = sorted.front();
        timing.median_ms = sorted[sorted.size() / 2];
        timing.repeats = repeats;
    }
    return timings;
}

void fill_with_noise(program::Executor& executor, program::Tensor tensor) {
    std::vector<float> values(
        static_cast<std::size_t>(executor.program().bytes_of(tensor) / sizeof(float)));
    std::uint32_t state = 12345;
    for (float& value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    }
    executor.write_values(tensor, std::span<const float>(values));
}

Json device_json(const Device& device) {
    return {{"device", device.info().name},
            {"driver", device.info().driver},
            {"arithmetic", arithmetic_name(device.arithmetic())}};
}

Json timing_json(const Timing& timing) {
    return {
        {"min_ms", timing.min_ms}, {"median_ms", timing.median_ms}, {"repeats", timing.repeats}};
}

}  // namespace quantsparse::bench
