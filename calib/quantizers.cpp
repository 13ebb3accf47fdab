#include "calib/quantizers.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::calib {
namespace {

float squared_error(std::span<const float> row, float scale, float lowest, float highest) {
    // Sixteen sums side by side, which the compiler turns into vectors.
    constexpr std::size_t kLanes = 16;
    float sums[kLanes] = {};
    const auto error = [&](float value) {
        const float clipped = std::min(std::max(value / scale, lowest), highest);
        const float difference = value - half_to_even(clipped) * scale;
        return difference * difference;
    };
    std::size_t i = 0;
    for (; i + kLanes <= row.size(); i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            sums[lane] += error(row[i + lane]);
        }
    }
    float total = 0;
    for (; i < row.size(); ++i) {
        total += error(row[i]);
    }
    for (const float sum : sums) {
        total += sum;
    }
    return total;
}

}  // namespace

std::vector<float> dequantize(const format::QuantizedWeight& quantized, int k) {
    std::vector<float> values(quantized.codes.size());
    const auto width = static_cast<std::size_t>(k);
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<float>(quantized.codes[i]) * quantized.scale[i / width];
    }
    return values;
}

std::vector<float> clip_grid(int bits) {
    if (bits >= 8) {
        return {1.0f};
    }
    std::vector<float> grid;
    for (int percent = 50; percent <= 100; percent += 2) {
        grid.push_back(static_cast<float>(percent) / 100.0f);
    }
    return grid;
}

std::vector<float> search_clipping(std::span<const float> weight, int n, int k, int bits,
                                   std::span<const float> grid) {
    const auto width = static_cast<std::size_t>(k);
    const auto highest = static_cast<float>((1 << (bits - 1)) - 1);
    const float lowest = -highest - 1;
    std::vector<float> gammas(static_cast<std::size_t>(n), 1.0f);
    for (std::size_t channel = 0; channel < gammas.size(); ++channel) {
        const auto row = weight.subspan(channel * width, width);
        float absmax = 0;
        for (const float value : row) {
            absmax = std::max(absmax, std::fabs(value));
        }
        float least = -1;
        for (const float gamma : grid) {
            const float scale = gamma * absmax / highest;
            if (!(scale > 1e-30f)) {
                break;  // an all-zero row has nothing to clip
            }
            const float error = squared_error(row, scale, lowest, highest);
            if (least < 0 || error < least) {
                least = error;
                gammas[channel] = gamma;
            }
        }
    }
    return gammas;
}

std::vector<float> fake_quantize_weight(std::span<const float> weight, int n, int k, int bits,
                                        std::span<const float> gamma) {
    return dequantize(format::quantize_weight(weight, n, k, bits, gamma), k);
}

std::vector<float> fake_quantize_rows(std::span<const float> rows, int m, int k, int bits) {
    return dequantize(format::quantize_rows(rows, m, k, bits), k);
}

std::vector<float> mean_shift(std::span<const float> target, std::span<const float> output, int n) {
    const auto channels = static_cast<std::size_t>(n);
    const std::size_t rows = target.size() / channels;
    std::vector<double> sums(channels, 0.0);
    for (std::size_t i = 0; i < target.size(); ++i) {
        sums[i % channels] += static_cast<double>(target[i]) - output[i];
    }
    std::vector<float> shift(channels, 0.0f);
    for (std::size_t i = 0; i < channels && rows > 0; ++i) {
        shift[i] = static_cast<float>(sums[i] / static_cast<double>(rows));
    }
    return shift;
}

double signal_to_noise_db(std::span<const float> signal, std::span<const float> approximation) {
    double power = 0;
    double noise = 0;
    for (std::size_t i = 0; i < signal.size(); ++i) {
        const double difference = static_cast<double>(signal[i]) - approximation[i];
        power += static_cast<double>(signal[i]) * signal[i];
        noise += difference * difference;
    }
    constexpr double kEqual = 200.0;
    return noise <= power * 1e-20 ? kEqual : 10.0 * std::log10(power / noise);
}

}  // namespace quantsparse::calib
