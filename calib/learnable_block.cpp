#include "calib/learnable_block.hpp"

#include <cmath>

#include "calib/fake_quant.hpp"
#include "calib/input_matrix.hpp"
#include "calib/orthogonal.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/tensors.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "format/safetensors.hpp"

namespace quantsparse::calib {
namespace {

constexpr double kLargestLog = 3.0;      // of the channel scale (method 3.9)
constexpr double kLeastClip = 0.7;       // of the activations
constexpr double kClipLogit = 4.0;       // sigmoid(4) = 0.98
constexpr float kLargestGamma = 0.995f;  // sigmoid reaches 1 at infinity only

at::Tensor parameter(const at::Tensor& value) {
    return value.detach().clone().requires_grad_(true);
}

at::Tensor from_vector(const std::vector<float>& values) {
    auto tensor = at::empty({std::ssize(values)}, at::kFloat);
    std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
    return tensor;
}

std::vector<float> to_vector(const at::Tensor& tensor) {
    const auto values = tensor.detach().to(at::kFloat).contiguous();
    const auto view = values_of(values);
    return {view.begin(), view.end()};
}

/// The quantiser does not see a common factor of c, so its geometric mean is held at 1.
at::Tensor scale_of(const at::Tensor& log_scale) {
    return (log_scale - log_scale.mean()).clamp(-kLargestLog, kLargestLog).exp();
}

at::Tensor clip_of(const at::Tensor& logit) {
    return logit.defined() ? kLeastClip + (1.0 - kLeastClip) * logit.sigmoid() : at::Tensor();
}

at::Tensor gamma_logits(const at::Tensor& transformed, int bits, bool search) {
    const auto n = static_cast<int>(transformed.size(0));
    const auto k = static_cast<int>(transformed.size(1));
    std::vector<float> gamma(static_cast<std::size_t>(n), 1.0f);
    if (search) {
        gamma = search_clipping(values_of(transformed.contiguous()), n, k, bits, clip_grid(bits));
    }
    for (auto& value : gamma) {
        value = std::min(value, kLargestGamma);
        value = std::log(value / (1.0f - value));
    }
    return from_vector(gamma);
}

}  // namespace

LearnableBlock::LearnableBlock(const BlockWeights& weights,
                               const std::vector<QuantizedLinear>& start, const Method& method,
                               const CalibrationOptions& options)
    : weights_(weights), method_(method), options_(options) {
    for (std::size_t first = 0; first < start.size();) {
        groups_.push_back(
            make_group(group_of(*weights.described, start[first].group), start, first));
        first += groups_.back().linears.size();
    }
}

LearnableBlock::LearnableGroup LearnableBlock::make_group(const format::LinearGroup& described,
                                                          const std::vector<QuantizedLinear>& start,
                                                          std::size_t first) const {
    LearnableGroup group;
    const auto& head = start.at(first);
    group.name = described.name;
    group.bits = head.bits;
    group.once_per_prompt = described.once_per_prompt;
    const int k = head.in_features;
    group.log_scale = from_vector(head.channel_scale).log_();
    group.signs = head.rotation_signs;
    if (!head.rotation.empty()) {  // quantize_block() learns none: it rotates first
        const auto parts = parts_of(head.rotation, head.rotation_block);
        group.rotate_first = true;
        group.log_scale = parts.scale.log();
        group.start_rotation = parts.rotation;
        if (method_.rotation == Rotation::learned) {
            group.skew = parameter(at::zeros_like(parts.rotation));
        }
    }
    if (method_.scale == ChannelScale::learned) {
        group.log_scale = parameter(group.log_scale);
    }
    if (!group.signs.empty()) {
        const bool learned = method_.rotation == Rotation::learned;
        const int b = learned ? rotation_block(k, learned_rotation_block(options_))
                              : format::hadamard_block(k);
        group.start_rotation = signed_hadamard(group.signs, b);
        // Blocks that are no whole vectors can't be run; such a group keeps its signs.
        if (learned && b % 4 == 0) {
            group.skew = parameter(at::zeros_like(group.start_rotation));
        } else if (learned) {
            group.start_rotation = signed_hadamard(group.signs, format::hadamard_block(k));
        }
    }
    if (method_.clip_activations) {
        group.clip_logit = parameter(at::full({}, kClipLogit, at::kFloat));
    }
    for (std::size_t i = 0; i < described.linears.size(); ++i) {
        group.linears.push_back(make_linear(described.linears[i].name, start.at(first + i), group));
    }
    return group;
}

LearnableBlock::LearnableLinear LearnableBlock::make_linear(const std::string& short_name,
                                                            const QuantizedLinear& start,
                                                            const LearnableGroup& group) const {
    const std::int64_t k = start.in_features, n = start.out_features;
    LearnableLinear linear;
    linear.name = start.name;
    linear.alpha = start.report.alpha;
    linear.weight = weights_.at(short_name + ".weight");
    const auto bias = weights_.tensors.find(short_name + ".bias");
    linear.bias = bias != weights_.tensors.end() ? bias->second : at::zeros({n}, at::kFloat);
    linear.shift = at::zeros_like(linear.bias);
    const auto transformed = weight_in_basis(
        group, linear.weight, scale_of(group.log_scale.detach()), group.start_rotation);
    linear.gamma_logit =
        parameter(gamma_logits(transformed, group.bits.weights, method_.clip_search));
    if (method_.two_sided_clip) {
        linear.gamma_logit = parameter(at::full({n}, kClipLogit, at::kFloat));
        linear.low_logit = parameter(at::full({n}, kClipLogit, at::kFloat));
    }
    if (method_.low_rank > 0) {
        const auto rank = std::min<std::int64_t>(method_.low_rank, std::min(n, k));
        // Kaiming for one factor, zero for the other: the start is the weight itself.
        linear.low_a = parameter((at::rand({rank, k}, at::kFloat) * 2 - 1) /
                                 std::sqrt(static_cast<double>(k)));
        linear.low_b = parameter(at::zeros({n, rank}, at::kFloat));
    }
    if (method_.branch_rank > 0) {
        linear.branch_down = parameter((at::rand({method_.branch_rank, k}, at::kFloat) * 2 - 1) /
                                       std::sqrt(static_cast<double>(k)));
        linear.branch_up = parameter(at::zeros({n, method_.branch_rank}, at::kFloat));
    }
    return linear;
}

std::vector<ParameterGroup> LearnableBlock::parameters() const {
    constexpr double kLowRankShare = 0.1;  // Q-VDiT gives its branches a rate of their own
    const double rate = options_.learning.rate.value_or(method_.rate);
    ParameterGroup transforms{{}, rate};
    ParameterGroup quantizers{{},
                              options_.learning.quantizer_rate.value_or(method_.quantizer_rate)};
    ParameterGroup branches{{}, rate * kLowRankShare};
    const auto add = [](ParameterGroup& to, const at::Tensor& tensor) {
        if (tensor.defined() && tensor.requires_grad()) {
            to.parameters.push_back(tensor);
        }
    };
    for (const auto& group : groups_) {
        add(transforms, group.log_scale);
        add(transforms, group.skew);
        add(quantizers, group.clip_logit);
        for (const auto& linear : group.linears) {
            add(quantizers, linear.gamma_logit);
            add(quantizers, linear.low_logit);
            add(branches, linear.low_a);
            add(branches, linear.low_b);
            add(branches, linear.branch_down);
            add(branches, linear.branch_up);
        }
    }
    return {transforms, quantizers, branches};
}

at::Tensor LearnableBlock::effective_weight(const LearnableLinear& linear) {
    return linear.low_a.defined() ? linear.weight + at::matmul(linear.low_b, linear.low_a)
                                  : linear.weight;
}

at::Tensor LearnableBlock::input_in_basis(const LearnableGroup& group, const at::Tensor& rows) {
    return group.rotate_first ? rotate_rows(rows, group.rotation) / group.scale
                              : rotate_rows(rows / group.scale, group.rotation);
}

at::Tensor LearnableBlock::weight_in_basis(const LearnableGroup& group, const at::Tensor& weight,
                                           const at::Tensor& scale, const at::Tensor& rotation) {
    return group.rotate_first ? rotate_rows(weight, rotation) * scale
                              : rotate_rows(weight * scale, rotation);
}

std::pair<at::Tensor, at::Tensor> LearnableBlock::clipped(const LearnableLinear& linear,
                                                          const at::Tensor& transformed) {
    const auto gamma = linear.gamma_logit.sigmoid();
    if (!linear.low_logit.defined()) {
        return {transformed, gamma};
    }
    return {clip_ends(transformed, linear.low_logit.sigmoid(), gamma), at::ones_like(gamma)};
}

void LearnableBlock::refresh() {
    for (auto& group : groups_) {
        group.scale = scale_of(group.log_scale);
        group.rotation =
            group.skew.defined() ? cayley(group.start_rotation, group.skew) : group.start_rotation;
        group.clip = clip_of(group.clip_logit);
        for (auto& linear : group.linears) {
            const auto [weight, gamma] = clipped(
                linear,
                weight_in_basis(group, effective_weight(linear), group.scale, group.rotation));
            linear.quantized = learnable_weight_quantize(weight, gamma, group.bits.weights);
        }
    }
}

std::vector<at::Tensor> LearnableBlock::project(std::string_view which,
                                                const at::Tensor& rows) const {
    const auto found =
        std::find_if(groups_.begin(), groups_.end(),
                     [&](const LearnableGroup& group) { return group.name == which; });
    if (found == groups_.end()) {
        return project_exactly(weights_, which, rows);
    }
    const auto& group = *found;
    const auto x =
        learnable_row_quantize(input_in_basis(group, rows), group.clip, group.bits.activations);
    std::vector<at::Tensor> outputs;
    for (const auto& linear : group.linears) {
        outputs.push_back(at::linear(x, linear.quantized, linear.bias + linear.shift));
        if (linear.branch_down.defined()) {
            outputs.back() =
                outputs.back() + at::linear(at::linear(rows, linear.branch_down), linear.branch_up);
        }
    }
    return outputs;
}

void LearnableBlock::correct_biases(int block, const CollectedActivations& activations) {
    if (!method_.correct_bias) {
        return;
    }
    const at::NoGradGuard no_gradients;
    for (auto& group : groups_) {
        if (group.once_per_prompt) {
            continue;  // as quantize_block(): too few different rows
        }
        const auto& kept = activations.group(block, group.name);
        const auto rows = from_vector(kept.rows).view({kept.row_count(), kept.width});
        const auto outputs = project(group.name, rows);
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            auto& linear = group.linears[i];
            linear.shift += (at::linear(rows, linear.weight, linear.bias) - outputs[i]).mean(0);
        }
    }
}

std::vector<at::Tensor> LearnableBlock::learned() const {
    std::vector<at::Tensor> all;
    for (const auto& group : parameters()) {
        all.insert(all.end(), group.parameters.begin(), group.parameters.end());
    }
    for (const auto& group : groups_) {
        for (const auto& linear : group.linears) {
            all.push_back(linear.shift);
        }
    }
    return all;
}

std::vector<at::Tensor> LearnableBlock::snapshot() const {
    std::vector<at::Tensor> values;
    for (const auto& tensor : learned()) {
        values.push_back(tensor.detach().clone());
    }
    return values;
}

void LearnableBlock::restore(const std::vector<at::Tensor>& values) {
    const at::NoGradGuard no_gradients;
    const auto tensors = learned();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        tensors[i].copy_(values.at(i));
    }
}

std::vector<QuantizedLinear> LearnableBlock::fold(int block,
                                                  const CollectedActivations& activations,
                                                  const BlockHessians& hessians) {
    const at::NoGradGuard no_gradients;
    refresh();
    std::vector<QuantizedLinear> result;
    for (auto& group : groups_) {
        auto scale = scale_of(group.log_scale.to(at::kDouble));
        if (group.rotate_first) {
            scale = normalised_scale(scale);
        }
        const auto start =
            group.start_rotation.defined() ? group.start_rotation.to(at::kDouble) : at::Tensor();
        const auto rotation =
            group.skew.defined() ? cayley(start, group.skew.to(at::kDouble)) : start;
        // The matrix that the file holds, and the scale that stays beside it.
        const auto matrix =
            group.rotate_first ? rotation / scale.view({-1, 1, rotation.size(1)}) : rotation;
        const auto beside = to_vector(group.rotate_first ? at::ones_like(scale) : scale);
        const auto feedback = group_feedback(group_of(*weights_.described, group.name), method_,
                                             hessians, beside, matrix, options_.threads);
        for (auto& source : group.linears) {
            check_cancelled();
            auto linear = fold_linear(source, group, scale, rotation, feedback);
            linear.channel_scale = beside;
            const bool stored = group.skew.defined() || group.rotate_first;
            if (&source == &group.linears.front() && stored) {
                linear.rotation_block = static_cast<int>(matrix.size(1));
                linear.rotation = half_values(matrix);
            }
            if (&source == &group.linears.front() && group.clip.defined()) {
                linear.activation_clip = group.clip.item<float>();
            }
            result.push_back(std::move(linear));
        }
    }
    // Codes from error feedback shift the outputs by other means than those of learning did.
    correct_biases(block, activations);
    std::size_t index = 0;
    for (const auto& group : groups_) {
        const auto& kept = activations.group(block, group.name);
        const auto rows = from_vector(kept.rows).view({kept.row_count(), kept.width});
        const auto outputs = project(group.name, rows);
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const auto& source = group.linears[i];
            auto& linear = result.at(index++);
            linear.bias = to_vector(source.bias + source.shift);
            linear.report.output_snr_db = signal_to_noise_db(
                values_of(at::linear(rows, source.weight, source.bias)), values_of(outputs[i]));
        }
    }
    return result;
}

QuantizedLinear LearnableBlock::fold_linear(LearnableLinear& source, const LearnableGroup& group,
                                            const at::Tensor& scale, const at::Tensor& rotation,
                                            const std::optional<ErrorFeedback>& feedback) const {
    QuantizedLinear linear;
    const int n = static_cast<int>(source.weight.size(0));
    const int k = static_cast<int>(source.weight.size(1));
    const int bits = group.bits.weights;
    linear.name = source.name;
    linear.group = group.name;
    linear.bits = group.bits;
    linear.out_features = n;
    linear.in_features = k;
    const auto [weight, factors] = clipped(
        source, weight_in_basis(group, effective_weight(source).to(at::kDouble), scale, rotation));
    const auto transformed = to_vector(weight);
    const auto gamma = to_vector(factors);
    const auto quantized =
        round_weight(transformed, n, k, bits, gamma, method_.rounding, feedback, options_.threads);
    const auto dequantized = dequantize(quantized, k);
    source.quantized = from_vector(dequantized).view({n, k});
    linear.codes = format::pack_weight_codes(quantized.codes, n, k, bits);
    linear.scale = quantized.scale;
    if (!group.skew.defined()) {
        linear.rotation_signs = group.signs;
    }
    if (source.branch_down.defined()) {
        linear.branch_down = half_values(source.branch_down);
        linear.branch_up = half_values(source.branch_up);
    }
    linear.report.name = source.name;
    linear.report.weight_snr_db = signal_to_noise_db(transformed, dequantized);
    linear.report.alpha = source.alpha;
    linear.report.mean_gamma =
        gamma.empty() ? 1.0 : at::mean(source.gamma_logit.sigmoid()).item<double>();
    return linear;
}

}  // namespace quantsparse::calib
