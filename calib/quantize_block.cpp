#include "calib/quantize_block.hpp"

#include <fmt/format.h>

#include <cmath>

#include "calib/linear_algebra.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/rotation.hpp"
#include "calib/smoothing.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;

std::vector<float> finite_values(const format::Checkpoint& checkpoint, const std::string& name) {
    auto values = format::to_float(checkpoint.at(name));
    for (const float value : values) {
        if (!std::isfinite(value)) {
            throw Error(ErrorCode::non_finite,
                        fmt::format("tensor '{}' of '{}' holds NaN or infinity; the checkpoint is "
                                    "damaged, download it again",
                                    name, checkpoint.path().string()));
        }
    }
    return values;
}

double mean_of(const std::vector<float>& values) {
    double sum = 0;
    for (const float value : values) {
        sum += value;
    }
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

/// What the linears of a group share.
struct GroupContext {
    std::span<const float> rows;            ///< kept input rows
    std::span<const float> quantized_rows;  ///< the same as the runtime would quantise them
    const SmoothingChoice& choice;
    const std::vector<float>& signs;
    int bits = 4;
    bool clip_search = true;
    bool correct_bias = true;
};

SmoothingChoice smoothing_of(const GroupProblem& problem, ChannelScale kind) {
    constexpr float kSmoothQuantAlpha = 0.5f;
    switch (kind) {
        case ChannelScale::none:
            break;
        case ChannelScale::smooth:
            return fixed_smoothing(problem, kSmoothQuantAlpha);
        case ChannelScale::search:
        case ChannelScale::learned:
            return choose_smoothing(problem);
    }
    SmoothingChoice none;
    none.scale.assign(static_cast<std::size_t>(problem.activations->width), 1.0f);
    return none;
}

/// Mean over the rows of rows weight^T, [n], summed in a fixed order: matrix libraries divide their
/// sums by the number of threads, and the same command must give the same file on any of them.
std::vector<float> mean_output(std::span<const float> rows, std::span<const float> weight, int n,
                               int k) {
    const auto columns = static_cast<std::size_t>(k);
    std::vector<double> mean(columns, 0.0);
    for (std::size_t i = 0; i < rows.size(); ++i) mean[i % columns] += rows[i];
    const double count = static_cast<double>(rows.size() / columns);
    std::vector<float> result;
    for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j) {
        double sum = 0;
        for (std::size_t i = 0; i < columns; ++i) sum += mean[i] * weight[j * columns + i];
        result.push_back(static_cast<float>(sum / count));
    }
    return result;
}

QuantizedLinear quantize_linear(const std::string& name, std::span<const float> weight,
                                std::vector<float> bias, const GroupContext& group) {
    QuantizedLinear linear;
    const int k = static_cast<int>(group.choice.scale.size());
    const int n = static_cast<int>(bias.size());
    const int rows = static_cast<int>(group.rows.size()) / k;
    const auto transformed = transform_weight(weight, k, group.choice.scale, group.signs);
    const auto grid = group.clip_search ? clip_grid(group.bits) : std::vector<float>{1.0f};
    const auto gamma = search_clipping(transformed, n, k, group.bits, grid);
    const auto quantized = format::quantize_weight(transformed, n, k, group.bits, gamma);
    const auto dequantized = fake_quantize_weight(transformed, n, k, group.bits, gamma);
    const auto target = multiply_transposed(group.rows, weight, rows, n, k);
    auto output = multiply_transposed(group.quantized_rows, dequantized, rows, n, k);
    if (group.correct_bias) {
        const auto shift = mean_shift(mean_output(group.rows, weight, n, k),
                                      mean_output(group.quantized_rows, dequantized, n, k), n);
        for (std::size_t i = 0; i < output.size(); ++i) {
            output[i] += shift[i % shift.size()];
        }
        for (std::size_t i = 0; i < bias.size(); ++i) {
            bias[i] += shift[i];
        }
    }
    linear.name = name;
    linear.out_features = n;
    linear.in_features = k;
    linear.codes = format::pack_weight_codes(quantized.codes, n, k, group.bits);
    linear.scale = quantized.scale;
    linear.bias = std::move(bias);
    linear.channel_scale = group.choice.scale;
    linear.rotation_signs = group.signs;
    linear.report = {name, signal_to_noise_db(transformed, dequantized),
                     signal_to_noise_db(target, output), group.choice.alpha, mean_of(gamma)};
    return linear;
}

}  // namespace

std::vector<QuantizedLinear> quantize_block(const format::Checkpoint& transformer, int block,
                                            const CollectedActivations& activations,
                                            const CalibrationOptions& options) {
    const auto method = method_of(options);
    std::vector<QuantizedLinear> result;
    for (const auto which : kInputGroups) {
        check_cancelled();
        const auto& group = activations.group(block, which);
        const auto names = linears_of(which, block);
        std::vector<std::vector<float>> weights;
        for (const auto& name : names) {
            weights.push_back(finite_values(transformer, name + ".weight"));
        }
        std::vector<float> signs;
        if (method.rotation != Rotation::none) {
            signs = rotation_signs(options.seed, block, which, group.width);
        }
        const GroupProblem problem{&group, &weights, signs, options.weight_bits,
                                   options.activation_bits};
        const auto choice = smoothing_of(problem, method.scale);
        const auto quantized_rows =
            fake_quantize_rows(transform_rows(group.rows, group.width, choice.scale, signs),
                               group.row_count(), group.width, options.activation_bits);
        // Few prompts give too few different text rows to tell a mean by: measured, it costs 0.2
        // dB.
        const bool correct_bias = method.correct_bias && which != InputGroup::cross_kv;
        const GroupContext context{group.rows,          quantized_rows,     choice,      signs,
                                   options.weight_bits, method.clip_search, correct_bias};
        for (std::size_t i = 0; i < names.size(); ++i) {
            check_cancelled();
            result.push_back(quantize_linear(
                names[i], weights[i], finite_values(transformer, names[i] + ".bias"), context));
        }
    }
    return result;
}

}  // namespace quantsparse::calib
