#include "calib/quantize_block.hpp"

#include <fmt/format.h>

#include <cmath>
#include <iterator>

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

/// A group quantised, and the squared error of its outputs on the kept rows.
struct QuantizedGroup {
    std::vector<QuantizedLinear> linears;
    double error = 0;
};

/// The linears of one input.
class GroupQuantizer {
  public:
    GroupQuantizer(const format::Component& transformer, int block, std::size_t index,
                   const GroupActivations& activations, const BlockHessians& hessians,
                   const CalibrationOptions& options);

    /// With the channel scale the method asks for. A searched one helps rounding to nearest; error
    /// feedback may do better without, so it has to prove itself once more.
    std::vector<QuantizedLinear> run() const;

  private:
    QuantizedGroup quantize(const SmoothingChoice& choice) const;
    QuantizedLinear quantize_linear(std::size_t index, const SmoothingChoice& choice,
                                    const std::optional<ErrorFeedback>& feedback,
                                    const std::vector<float>& quantized_rows, double* error) const;

    const format::Component& transformer_;
    const GroupActivations& activations_;
    const BlockHessians& hessians_;
    const CalibrationOptions& options_;
    const Method method_;
    const format::LinearGroup& group_;
    format::LinearBits bits_;
    std::vector<format::LinearSpec> linears_;  ///< with the block's prefix
    std::vector<std::vector<float>> weights_;
    std::vector<float> signs_;  ///< empty: no rotation
};

GroupQuantizer::GroupQuantizer(const format::Component& transformer, int block, std::size_t index,
                               const GroupActivations& activations, const BlockHessians& hessians,
                               const CalibrationOptions& options)
    : transformer_(transformer),
      activations_(activations),
      hessians_(hessians),
      options_(options),
      method_(method_of(options)),
      group_(transformer.network.blocks.at(static_cast<std::size_t>(block)).groups.at(index)) {
    const auto& described = transformer.network.blocks.at(static_cast<std::size_t>(block));
    bits_ = quantization_of(options).of(described, group_);
    linears_ = linears_of(described, group_);
    for (const auto& linear : linears_) {
        weights_.push_back(finite_values(*transformer.checkpoint, linear.name + ".weight"));
    }
    if (method_.rotation != Rotation::none) {
        const auto stream = static_cast<std::uint64_t>(block) * described.groups.size() + index + 1;
        signs_ = rotation_signs(options.seed, stream, group_.width);
    }
}

std::vector<QuantizedLinear> GroupQuantizer::run() const {
    const GroupProblem problem{&activations_, &weights_, signs_, bits_.weights, bits_.activations};
    auto chosen = quantize(smoothing_of(problem, method_.scale));
    const bool searched =
        method_.scale == ChannelScale::search || method_.scale == ChannelScale::learned;
    if (method_.rounding != Rounding::nearest && searched &&
        chosen.linears.front().report.alpha >= 0) {
        auto plain = quantize(smoothing_of(problem, ChannelScale::none));
        if (plain.error < chosen.error) {
            chosen = std::move(plain);
        }
    }
    return std::move(chosen.linears);
}

QuantizedGroup GroupQuantizer::quantize(const SmoothingChoice& choice) const {
    const int k = group_.width;
    const auto quantized_rows =
        fake_quantize_rows(transform_rows(activations_.rows, k, choice.scale, signs_),
                           activations_.row_count(), k, bits_.activations);
    const auto feedback = group_feedback(
        group_, method_, hessians_, choice.scale,
        signs_.empty() ? at::Tensor() : signed_hadamard(signs_, format::hadamard_block(k)),
        options_.threads);
    QuantizedGroup result;
    for (std::size_t i = 0; i < linears_.size(); ++i) {
        check_cancelled();
        result.linears.push_back(
            quantize_linear(i, choice, feedback, quantized_rows, &result.error));
    }
    return result;
}

QuantizedLinear GroupQuantizer::quantize_linear(std::size_t index, const SmoothingChoice& choice,
                                                const std::optional<ErrorFeedback>& feedback,
                                                const std::vector<float>& quantized_rows,
                                                double* error) const {
    const auto& spec = linears_[index];
    const auto& weight = weights_[index];
    QuantizedLinear linear;
    const int k = spec.in_features;
    const int n = spec.out_features;
    const int rows = activations_.row_count();
    const int bits = bits_.weights;
    const auto transformed = transform_weight(weight, k, choice.scale, signs_);
    const auto grid = method_.clip_search ? clip_grid(bits) : std::vector<float>{1.0f};
    const auto gamma = search_clipping(transformed, n, k, bits, grid);
    const auto quantized =
        round_weight(transformed, n, k, bits, gamma, method_.rounding, feedback, options_.threads);
    const auto dequantized = dequantize(quantized, k);
    const auto target = multiply_transposed(activations_.rows, weight, rows, n, k);
    auto output = multiply_transposed(quantized_rows, dequantized, rows, n, k);
    linear.bias = bias_of(*transformer_.checkpoint, spec);
    // Few prompts give too few different text rows to tell a mean by: measured, it costs 0.2 dB.
    if (method_.correct_bias && !group_.once_per_prompt) {
        const auto shift = mean_shift(mean_output(activations_.rows, weight, n, k),
                                      mean_output(quantized_rows, dequantized, n, k), n);
        for (std::size_t i = 0; i < output.size(); ++i) {
            output[i] += shift[i % shift.size()];
        }
        for (std::size_t i = 0; i < shift.size(); ++i) {
            linear.bias[i] += shift[i];
        }
    }
    for (std::size_t i = 0; i < output.size(); ++i) {
        const double difference = static_cast<double>(target[i]) - output[i];
        *error += difference * difference;
    }
    linear.name = spec.name;
    linear.group = group_.name;
    linear.bits = bits_;
    linear.out_features = n;
    linear.in_features = k;
    linear.codes = format::pack_weight_codes(quantized.codes, n, k, bits);
    linear.scale = quantized.scale;
    linear.channel_scale = choice.scale;
    linear.rotation_signs = signs_;
    linear.report = {spec.name, signal_to_noise_db(transformed, dequantized),
                     signal_to_noise_db(target, output), choice.alpha, mean_of(gamma)};
    return linear;
}

}  // namespace

std::vector<QuantizedLinear> quantize_block(const format::Component& transformer, int block,
                                            const CollectedActivations& activations,
                                            const BlockHessians& hessians,
                                            const CalibrationOptions& options) {
    const auto& described = transformer.network.blocks.at(static_cast<std::size_t>(block));
    std::vector<QuantizedLinear> result;
    for (std::size_t index = 0; index < described.groups.size(); ++index) {
        check_cancelled();
        const auto& group = described.groups[index];
        if (!quantization_of(options).of(described, group).quantized()) {
            continue;
        }
        const GroupQuantizer quantizer(transformer, block, index,
                                       activations.group(block, group.name), hessians, options);
        auto linears = quantizer.run();
        std::move(linears.begin(), linears.end(), std::back_inserter(result));
    }
    return result;
}

}  // namespace quantsparse::calib
