#include "calib/sensitivity.hpp"

#include <algorithm>

#include "calib/fake_quant.hpp"
#include "calib/parallel.hpp"
#include "calib/progress.hpp"

namespace quantsparse::calib {
namespace {

/// The block with its linears' weights rounded to nearest.
BlockWeights rounded(BlockWeights weights, const format::Quantization& quantization) {
    for (const auto& group : weights.described->groups) {
        const auto bits = quantization.of(*weights.described, group);
        if (!bits.quantized()) {
            continue;
        }
        for (const auto& linear : group.linears) {
            auto& weight = weights.tensors.at(linear.name + ".weight");
            weight = learnable_weight_quantize(weight, at::ones({weight.size(0)}), bits.weights);
        }
    }
    return weights;
}

}  // namespace

std::vector<double> output_changes(const format::Component& component,
                                   const Transformer& transformer,
                                   const format::Quantization& quantization,
                                   const std::vector<TransformerInput>& inputs,
                                   const std::vector<at::Tensor>& predictions, int threads) {
    const at::NoGradGuard no_gradients;
    const OneThreadPerOperation exact;
    std::vector<BlockState> states;
    for (const auto& input : inputs) {
        states.push_back(transformer.prepare(input));
    }
    const int blocks = static_cast<int>(component.network.blocks.size());
    for (int block = 0; block < blocks; ++block) {
        check_cancelled();
        const auto weights = rounded(load_block_weights(component, block), quantization);
        in_parallel(states.size(), threads, [&](std::size_t i) {
            const at::NoGradGuard no_gradients_here;  // belongs to a thread
            BlockMethods methods;
            methods.project = [&](std::string_view group, const at::Tensor& rows) {
                const auto bits =
                    quantization.of(*weights.described, group_of(*weights.described, group));
                return project_exactly(
                    weights, group,
                    bits.quantized() ? learnable_row_quantize(rows, {}, bits.activations) : rows);
            };
            states[i].x = transformer.run_block(weights, states[i], methods);
        });
    }
    std::vector<double> changes;
    for (std::size_t i = 0; i < states.size(); ++i) {
        const auto& exact_value = predictions.at(i);
        const double power = exact_value.square().sum().item<double>();
        const auto difference = transformer.prediction(states[i]) - exact_value;
        changes.push_back(difference.square().sum().item<double>() / std::max(power, 1e-30));
    }
    return changes;
}

}  // namespace quantsparse::calib
