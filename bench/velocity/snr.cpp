#include "velocity/snr.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {

Measure measure_of(const std::string& word) {
    if (word.empty() || word == "levels") return Measure::levels;
    if (word == "path") return Measure::path;
    if (word == "latents") return Measure::latents;
    throw Error(ErrorCode::bad_file,
                fmt::format("nothing is measured by '{}': write levels, path or latents", word));
}

const char* word_of(Measure measure) {
    switch (measure) {
        case Measure::path:
            return "path";
        case Measure::latents:
            return "latents";
        default:
            return "levels";
    }
}

double relative_error(std::span<const float> a, std::span<const float> reference) {
    double error = 0, size = 0;
    for (std::size_t i = 0; i < reference.size(); ++i) {
        const double value = static_cast<double>(reference[i]);
        const double difference = static_cast<double>(a[i]) - value;
        error += difference * difference;
        size += value * value;
    }
    return error / size;
}

double decibels(double relative_error) {
    constexpr double kMost = 120;
    return relative_error > 0 ? std::min(kMost, -10 * std::log10(relative_error)) : kMost;
}

double signal_to_noise(Measure measure, const std::vector<double>& errors) {
    double sum = 0;
    const double count = static_cast<double>(errors.size());
    if (measure == Measure::path) {
        for (const double error : errors) sum += error / count;
        return decibels(sum);
    }
    for (const double error : errors) sum += decibels(error) / count;
    return sum;
}

std::vector<int> level_steps(int steps, int count) {
    std::vector<int> chosen;
    count = std::min(count, steps);
    for (int i = 0; i < count; ++i) chosen.push_back((2 * i + 1) * steps / (2 * count));
    return chosen;
}

}  // namespace quantsparse::bench
