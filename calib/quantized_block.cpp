#include "calib/quantized_block.hpp"

#include <numeric>

#include "calib/attention.hpp"
#include "calib/distillation.hpp"
#include "calib/fake_quant.hpp"
#include "calib/orthogonal.hpp"
#include "calib/parallel.hpp"
#include "calib/progress.hpp"
#include "calib/tensors.hpp"
#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "format/safetensors.hpp"

namespace quantsparse::calib {
namespace {

at::Tensor to_tensor(const std::vector<float>& values, at::IntArrayRef shape) {
    auto tensor = at::empty(shape, at::kFloat);
    std::copy(values.begin(), values.end(), tensor.data_ptr<float>());
    return tensor;
}

at::Tensor dequantised(const QuantizedLinear& linear, int bits) {
    const auto codes =
        format::unpack_weight_codes(linear.codes, linear.out_features, linear.in_features, bits);
    auto weight = at::empty({linear.out_features, linear.in_features}, at::kFloat);
    std::copy(codes.begin(), codes.end(), weight.data_ptr<float>());
    return weight * to_tensor(linear.scale, {linear.out_features, 1});
}

at::Tensor rotation_of(const QuantizedLinear& linear) {
    if (!linear.rotation.empty()) {
        const std::int64_t b = linear.rotation_block;
        auto rotation = at::empty({linear.in_features / b, b, b}, at::kFloat);
        std::transform(linear.rotation.begin(), linear.rotation.end(), rotation.data_ptr<float>(),
                       format::float_from_half);
        return rotation;
    }
    return linear.rotation_signs.empty()
               ? at::Tensor()
               : signed_hadamard(linear.rotation_signs, format::hadamard_block(linear.in_features));
}

/// Error of the whole map, a tile of query rows at a time.
double tiled_map_error(const at::Tensor& q, const at::Tensor& k, const at::Tensor& exact_q,
                       const at::Tensor& exact_k) {
    constexpr std::int64_t kRows = 512;
    double sum = 0;
    for (std::int64_t start = 0; start < q.size(0); start += kRows) {
        const auto count = std::min(kRows, q.size(0) - start);
        const auto map = attention_rows(q.narrow(0, start, count), k);
        const auto target = attention_rows(exact_q.narrow(0, start, count), exact_k);
        sum += map_error(map, target).item<double>() * static_cast<double>(count);
    }
    return sum / static_cast<double>(q.size(0));
}

/// What one run of the block leaves behind.
struct BlockRun {
    at::Tensor y;
    at::Tensor q, k;  ///< of the self-attention, after RoPE
};

BlockRun run(const Transformer& transformer, const BlockWeights& weights, const BlockState& state,
             const at::Tensor& x, const QuantizedBlock* quantized) {
    BlockRun result;
    BlockMethods methods;
    methods.project = [&](std::string_view group, const at::Tensor& rows) {
        return quantized ? quantized->project(group, rows) : project_exactly(weights, group, rows);
    };
    methods.self_attention = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        result.q = q;
        result.k = k;
        return attention(q, k, v);
    };
    auto input = state;
    input.x = x;
    result.y = transformer.run_block(weights, input, methods);
    return result;
}

}  // namespace

QuantizedBlock::QuantizedBlock(const std::vector<QuantizedLinear>& linears,
                               const BlockWeights& weights)
    : weights_(weights) {
    for (const auto& linear : linears) {
        auto& group = groups_[linear.group];
        if (group.weights.empty()) {
            group.channel_scale = to_tensor(linear.channel_scale, {linear.in_features});
            group.rotation = rotation_of(linear);
            if (linear.activation_clip != 1.0f) {
                group.clip = at::full({}, linear.activation_clip, at::kFloat);
            }
            group.activation_bits = linear.bits.activations;
        }
        group.weights.push_back(dequantised(linear, linear.bits.weights));
        group.biases.push_back(to_tensor(linear.bias, {linear.out_features}));
        const std::int64_t rank = linear.branch_rank();
        const auto branch = [&](const std::vector<std::uint16_t>& halves, std::int64_t rows,
                                std::int64_t columns) {
            return rank > 0 ? to_tensor(float_values(halves), {rows, columns}) : at::Tensor();
        };
        group.downs.push_back(branch(linear.branch_down, rank, linear.in_features));
        group.ups.push_back(branch(linear.branch_up, linear.out_features, rank));
    }
}

std::vector<at::Tensor> QuantizedBlock::project(std::string_view which,
                                                const at::Tensor& rows) const {
    const auto found = groups_.find(which);
    if (found == groups_.end()) {
        return project_exactly(weights_, which, rows);
    }
    const auto& group = found->second;
    const auto x = learnable_row_quantize(rotate_rows(rows / group.channel_scale, group.rotation),
                                          group.clip, group.activation_bits);
    std::vector<at::Tensor> outputs;
    for (std::size_t i = 0; i < group.weights.size(); ++i) {
        outputs.push_back(at::linear(x, group.weights[i], group.biases[i]));
        if (group.downs[i].defined()) {
            outputs.back() += at::linear(at::linear(rows, group.downs[i]), group.ups[i]);
        }
    }
    return outputs;
}

namespace {

/// Of one sample that is held out; `power` is the size of what the block adds to it.
BlockErrors errors_of(const BlockRun& exact, const BlockRun& own, const BlockRun& prefix,
                      double power, const LearningOptions& options) {
    const auto tokens = exact.y.size(0);
    const auto stride = options.stride > 0 ? options.stride : default_stride(tokens);
    const auto salient =
        salient_tokens(received_attention(exact.q, exact.k),
                       options.salient_count > 0 ? options.salient_count : default_salient(tokens));
    const auto rows = [&](const BlockRun& from) {
        return attention_rows(from.q.index_select(0, salient), from.k);
    };
    BlockErrors errors;
    errors.own = (own.y - exact.y).square().sum().item<double>() / power;
    errors.prefix = (prefix.y - exact.y).square().sum().item<double>() / power;
    errors.pooled_map =
        map_error(pooled_map(prefix.q, prefix.k, stride), pooled_map(exact.q, exact.k, stride))
            .item<double>();
    errors.salient_rows = map_error(rows(prefix), rows(exact)).item<double>();
    errors.full_map = tiled_map_error(prefix.q, prefix.k, exact.q, exact.k);
    return errors;
}

BlockErrors mean_of(const std::vector<BlockErrors>& all) {
    BlockErrors mean;
    const auto count = static_cast<double>(all.size());
    for (const auto& errors : all) {
        mean.own += errors.own / count;
        mean.prefix += errors.prefix / count;
        mean.pooled_map += errors.pooled_map / count;
        mean.salient_rows += errors.salient_rows / count;
        mean.full_map += errors.full_map / count;
    }
    return mean;
}

}  // namespace

double held_out_error(const Transformer& transformer, const BlockWeights& weights,
                      const QuantizedBlock& quantized, const SampleSet& samples, int threads) {
    const OneThreadPerOperation exact_sums;
    std::vector<double> errors(samples.states.size() - samples.training);
    in_parallel(errors.size(), threads, [&](std::size_t i) {
        const at::NoGradGuard no_gradients;  // belongs to a thread
        check_cancelled();
        const auto sample = samples.training + i;
        const auto& state = samples.states[sample];
        const auto exact = run(transformer, weights, state, state.x, nullptr);
        const auto y = run(transformer, weights, state, samples.quantized[sample], &quantized).y;
        errors[i] = (y - exact.y).square().sum().item<double>() /
                    (exact.y - state.x).square().sum().item<double>();
    });
    return std::accumulate(errors.begin(), errors.end(), 0.0) / static_cast<double>(errors.size());
}

BlockErrors evaluate_and_advance(const Transformer& transformer, const BlockWeights& weights,
                                 const QuantizedBlock& quantized, const LearningOptions& options,
                                 const NeededStates& needed,
                                 const std::vector<at::Tensor>& exact_outputs, int threads,
                                 SampleSet& samples) {
    const OneThreadPerOperation exact_sums;
    std::vector<BlockErrors> errors(samples.states.size() - samples.training);
    in_parallel(samples.states.size(), threads, [&](std::size_t i) {
        const at::NoGradGuard no_gradients;  // belongs to a thread
        check_cancelled();
        auto& state = samples.states[i];
        auto& x = samples.quantized[i];
        if (i < samples.training) {
            x = needed.quantized ? run(transformer, weights, state, x, &quantized).y : at::Tensor();
            if (!needed.exact) {
                state.x = at::Tensor();
            } else if (!exact_outputs.empty()) {
                state.x = exact_outputs[i];
            } else {
                state.x = run(transformer, weights, state, state.x, nullptr).y;
            }
            return;
        }
        const auto exact = run(transformer, weights, state, state.x, nullptr);
        const auto own = run(transformer, weights, state, state.x, &quantized);
        const auto prefix = run(transformer, weights, state, x, &quantized);
        const double power = (exact.y - state.x).square().sum().item<double>();
        errors[i - samples.training] = errors_of(exact, own, prefix, power, options);
        state.x = exact.y;
        x = prefix.y;
    });
    return mean_of(errors);
}

}  // namespace quantsparse::calib
