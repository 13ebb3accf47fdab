#include "calib/transformer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "calib/tensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {

BlockWeights load_block_weights(const format::Component& transformer, int block) {
    BlockWeights weights;
    weights.described = &transformer.network.blocks.at(static_cast<std::size_t>(block));
    const auto& prefix = weights.described->prefix;
    for (const auto& tensor : transformer.network.tensors) {
        if (tensor.name.starts_with(prefix)) {
            weights.tensors[tensor.name.substr(prefix.size())] =
                load_tensor(*transformer.checkpoint, tensor.name);
        }
    }
    return weights;
}

const format::LinearGroup& group_of(const format::NetworkBlock& block, std::string_view name) {
    const auto found =
        std::find_if(block.groups.begin(), block.groups.end(),
                     [&](const format::LinearGroup& group) { return group.name == name; });
    if (found == block.groups.end()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{}* has no group of linears '{}'", block.prefix, name));
    }
    return *found;
}

std::vector<at::Tensor> project_exactly(const BlockWeights& weights, std::string_view group,
                                        const at::Tensor& rows) {
    std::vector<at::Tensor> outputs;
    for (const auto& linear : group_of(*weights.described, group).linears) {
        outputs.push_back(
            at::linear(rows, weights.at(linear.name + ".weight"),
                       linear.bias ? weights.at(linear.name + ".bias") : at::Tensor()));
    }
    return outputs;
}

}  // namespace quantsparse::calib
