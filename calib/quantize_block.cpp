#include "calib/quantize_block.hpp"

#include <fmt/format.h>

#include <cmath>

#include "calib/gptq.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/orthogonal.hpp"
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

/// Zeros for a linear without one.
std::vector<float> bias_of(const format::Checkpoint& checkpoint, const format::LinearSpec& linear) {
    return linear.bias ? finite_values(checkpoint, linear.name + ".bias")
                       : std::vector<float>(static_cast<std::size_t>(linear.out_features), 0.0f);
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
    const std::optional<ErrorFeedback>& feedback;  ///< none: to nearest
    int bits = 4;
    bool clip_search = true;
    bool correct_bias = true;
    int threads = 0;
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
    const auto quantized = group.feedback
                               ? quantize_with_feedback(transformed, n, k, group.bits, gamma,
                                                        *group.feedback, group.threads)
                               : format::quantize_weight(transformed, n, k, group.bits, gamma);
    const auto dequantized = dequantize(quantized, k);
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

std::vector<QuantizedLinear> quantize_block(const format::Component& transformer, int block,
                                            const CollectedActivations& activations,
                                            const BlockHessians& hessians,
                                            const CalibrationOptions& options) {
    const auto method = method_of(options);
    const auto& described = transformer.network.blocks.at(static_cast<std::size_t>(block));
    std::vector<QuantizedLinear> result;
    for (std::size_t index = 0; index < described.groups.size(); ++index) {
        check_cancelled();
        const auto& which = described.groups[index];
        const auto bits = quantization_of(options).of(described, which);
        if (!bits.quantized()) {
            continue;
        }
        const auto& group = activations.group(block, which.name);
        const auto linears = linears_of(described, which);
        std::vector<std::vector<float>> weights;
        for (const auto& linear : linears) {
            weights.push_back(finite_values(*transformer.checkpoint, linear.name + ".weight"));
        }
        std::vector<float> signs;
        if (method.rotation != Rotation::none) {
            const auto stream =
                static_cast<std::uint64_t>(block) * described.groups.size() + index + 1;
            signs = rotation_signs(options.seed, stream, group.width);
        }
        const GroupProblem problem{&group, &weights, signs, bits.weights, bits.activations};
        const auto choice = smoothing_of(problem, method.scale);
        const auto quantized_rows =
            fake_quantize_rows(transform_rows(group.rows, group.width, choice.scale, signs),
                               group.row_count(), group.width, bits.activations);
        // Few prompts give too few different text rows to tell a mean by: measured, it costs 0.2
        // dB.
        const bool correct_bias = method.correct_bias && !which.once_per_prompt;
        const auto feedback = group_feedback(
            which, method, hessians, choice.scale,
            signs.empty() ? at::Tensor()
                          : signed_hadamard(signs, format::hadamard_block(group.width)),
            options.threads);
        const GroupContext context{
            group.rows,   quantized_rows,     choice,       signs,          feedback,
            bits.weights, method.clip_search, correct_bias, options.threads};
        for (std::size_t i = 0; i < linears.size(); ++i) {
            check_cancelled();
            const auto& name = linears[i].name;
            auto linear = quantize_linear(name, weights[i],
                                          bias_of(*transformer.checkpoint, linears[i]), context);
            linear.group = which.name;
            linear.bits = bits;
            result.push_back(std::move(linear));
        }
    }
    return result;
}

}  // namespace quantsparse::calib
