#include "calib/quantize_block.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "calib/gptq.hpp"
#include "calib/input_matrix.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/low_rank_branch.hpp"
#include "calib/orthogonal.hpp"
#include "calib/parallel.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/rotation.hpp"
#include "calib/smoothing.hpp"
#include "calib/tensors.hpp"
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

SmoothingChoice smoothing_of(const GroupProblem& problem, ChannelScale kind, float start_alpha) {
    constexpr float kSmoothQuantAlpha = 0.5f;
    switch (kind) {
        case ChannelScale::none:
            break;
        case ChannelScale::smooth:
            return fixed_smoothing(problem, kSmoothQuantAlpha);
        case ChannelScale::salient:
            return salient_smoothing(problem);
        case ChannelScale::search:
        case ChannelScale::learned:
            return start_alpha < 0 ? choose_smoothing(problem)
                                   : fixed_smoothing(problem, start_alpha);
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
    QuantizedGroup quantize(const SmoothingChoice& found) const;
    bool rotates_first() const;
    std::optional<ErrorFeedback> feedback_of(const std::vector<float>& scale) const;
    /// What the method puts beside the codes.
    void add_branch(const std::vector<float>& transformed, const std::vector<float>& dequantized,
                    const std::vector<float>& scale, QuantizedLinear& linear) const;
    /// Channel scale and rotation, or the matrix of both with the first linear of the group.
    void store_input_side(const std::vector<float>& scale, bool head,
                          QuantizedLinear& linear) const;
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
    const GroupProblem problem{&activations_, &weights_,         signs_,
                               bits_.weights, bits_.activations, method_.order};
    auto chosen = quantize(smoothing_of(problem, method_.scale, method_.start_alpha));
    const bool searched =
        method_.scale == ChannelScale::search || method_.scale == ChannelScale::learned;
    if (method_.rounding != Rounding::nearest && searched &&
        chosen.linears.front().report.alpha >= 0) {
        auto plain = quantize(smoothing_of(problem, ChannelScale::none, -1));
        if (plain.error < chosen.error) {
            chosen = std::move(plain);
        }
    }
    return std::move(chosen.linears);
}

bool GroupQuantizer::rotates_first() const {
    return method_.order == TransformOrder::rotate_scale && !signs_.empty();
}

std::optional<ErrorFeedback> GroupQuantizer::feedback_of(const std::vector<float>& scale) const {
    const int b = format::hadamard_block(group_.width);
    if (rotates_first()) {
        return group_feedback(group_, method_, hessians_, std::vector<float>(scale.size(), 1.0f),
                              input_matrix(signs_, b, scale), options_.threads);
    }
    return group_feedback(group_, method_, hessians_, scale,
                          signs_.empty() ? at::Tensor() : signed_hadamard(signs_, b),
                          options_.threads);
}

void GroupQuantizer::store_input_side(const std::vector<float>& scale, bool head,
                                      QuantizedLinear& linear) const {
    if (!rotates_first()) {
        linear.channel_scale = scale;
        linear.rotation_signs = signs_;
        return;
    }
    linear.channel_scale.assign(scale.size(), 1.0f);
    if (head) {
        linear.rotation_block = format::hadamard_block(group_.width);
        linear.rotation = half_values(input_matrix(signs_, linear.rotation_block, scale));
    }
}

void GroupQuantizer::add_branch(const std::vector<float>& transformed,
                                const std::vector<float>& dequantized,
                                const std::vector<float>& scale, QuantizedLinear& linear) const {
    const at::NoGradGuard no_gradients;
    const OneThreadPerOperation exact;
    const auto matrix = [&](const std::vector<float>& values) {  // only read
        return at::from_blob(const_cast<float*>(values.data()),
                             {linear.out_features, linear.in_features}, at::kFloat);
    };
    const auto branch = residual_branch(matrix(transformed), matrix(dequantized),
                                        method_.salient_share, method_.branch_rank);
    const auto down = branch.down.contiguous();
    linear.branch_down = half_values(
        directions_of_inputs(values_of(down), linear.in_features, scale, signs_, method_.order));
    linear.branch_up = half_values(branch.up);
}

QuantizedGroup GroupQuantizer::quantize(const SmoothingChoice& found) const {
    auto choice = found;
    if (rotates_first()) {
        const float least = *std::min_element(choice.scale.begin(), choice.scale.end());
        for (auto& c : choice.scale) {  // so that the matrix that holds 1/c fits the file
            c /= least;
        }
    }
    const int k = group_.width;
    const auto quantized_rows = fake_quantize_rows(
        transform_rows(activations_.rows, k, choice.scale, signs_, method_.order),
        activations_.row_count(), k, bits_.activations);
    const auto feedback = feedback_of(choice.scale);
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
    const int k = linear.in_features = spec.in_features;
    const int n = linear.out_features = spec.out_features;
    const int rows = activations_.row_count();
    const int bits = bits_.weights;
    const auto transformed = transform_weight(weight, k, choice.scale, signs_, method_.order);
    const auto grid = method_.clip_search ? clip_grid(bits) : std::vector<float>{1.0f};
    const auto gamma = search_clipping(transformed, n, k, bits, grid);
    const auto quantized =
        round_weight(transformed, n, k, bits, gamma, method_.rounding, feedback, options_.threads);
    const auto dequantized = dequantize(quantized, k);
    const auto target = multiply_transposed(activations_.rows, weight, rows, n, k);
    auto output = multiply_transposed(quantized_rows, dequantized, rows, n, k);
    if (method_.branch_rank > 0 && !method_.learns) {  // else learned from zero
        add_branch(transformed, dequantized, choice.scale, linear);
        const auto added = multiply_transposed(
            multiply_transposed(activations_.rows, float_values(linear.branch_down), rows,
                                linear.branch_rank(), k),
            float_values(linear.branch_up), rows, n, linear.branch_rank());
        std::transform(output.begin(), output.end(), added.begin(), output.begin(), std::plus<>());
    }
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
    linear.codes = format::pack_weight_codes(quantized.codes, n, k, bits);
    linear.scale = quantized.scale;
    store_input_side(choice.scale, index == 0, linear);
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
