#include "measure.hpp"

#include <algorithm>
#include <cstdint>

namespace quantsparse::bench {
namespace {

double collected_ms(const program::Executor& executor, const std::string& name) {
    double sum = 0;
    for (const auto& operation : executor.profile()) {
        if (name.empty() || operation.name == name) sum += operation.milliseconds;
    }
    return sum;
}

}  // namespace

Timing time_phase(program::Executor& executor, int repeats, const std::string& operation) {
    executor.run(0);
    std::vector<double> times;
    double before = collected_ms(executor, operation);
    for (int i = 0; i < repeats; ++i) {
        executor.run(0);
        const double now = collected_ms(executor, operation);
        times.push_back(now - before);
        before = now;
    }
    std::sort(times.begin(), times.end());
    return {times.front(), times[times.size() / 2], repeats};
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
