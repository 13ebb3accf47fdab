// What the calibrator computes with a quantised model, for tests that compare the runtime with it.
#pragma once

#include <vector>

#include "calib/block_file.hpp"
#include "calib/quantized_block.hpp"
#include "calib/registry.hpp"
#include "calib/tensors.hpp"

namespace quantsparse::calib::test {

inline at::Tensor to_tensor(const std::vector<float>& values, at::IntArrayRef shape) {
    auto result = at::empty(shape, at::kFloat);
    std::copy(values.begin(), values.end(), result.data_ptr<float>());
    return result;
}

/// `source`: the transformer in floating point, `quantized`: the same model's file.
inline std::vector<float> quantized_prediction(const format::Component& source,
                                               const format::ModelBundle& quantized,
                                               const TransformerInput& input) {
    const at::NoGradGuard no_gradients;
    const auto network = make_transformer(source);
    auto state = network->prepare(input);
    for (int block = 0; block < static_cast<int>(source.network.blocks.size()); ++block) {
        const auto weights = load_block_weights(source, block);
        const QuantizedBlock linears(
            stored_linears(quantized.at("transformer"), quantized.quantization, block), weights);
        BlockMethods methods;
        methods.project = [&](std::string_view group, const at::Tensor& rows) {
            return linears.project(group, rows);
        };
        state.x = network->run_block(weights, state, methods);
    }
    const auto prediction = network->prediction(state).contiguous();
    const auto values = values_of(prediction);
    return {values.begin(), values.end()};
}

}  // namespace quantsparse::calib::test
