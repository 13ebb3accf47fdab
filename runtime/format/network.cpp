#include "format/network.hpp"

namespace quantsparse::format {

std::vector<LinearSpec> linears_of(const NetworkBlock& block, const LinearGroup& group) {
    std::vector<LinearSpec> linears = group.linears;
    for (auto& linear : linears) {
        linear.name.insert(0, block.prefix);
    }
    return linears;
}

std::vector<LinearSpec> linears_of(const NetworkBlock& block) {
    std::vector<LinearSpec> linears;
    for (const auto& group : block.groups) {
        const auto part = linears_of(block, group);
        linears.insert(linears.end(), part.begin(), part.end());
    }
    return linears;
}

void TensorList::add_linears(const NetworkBlock& block) {
    for (const auto& linear : linears_of(block)) {
        add(linear.name + ".weight", {linear.out_features, linear.in_features});
        if (linear.bias) {
            add(linear.name + ".bias", {linear.out_features});
        }
    }
}

}  // namespace quantsparse::format
