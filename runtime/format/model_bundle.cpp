#include "format/model_bundle.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "quantsparse/error.hpp"

namespace quantsparse::format {

LinearBits Quantization::of(std::string_view block_prefix, std::string_view group) const {
    for (const auto& name : {std::string(block_prefix).append(group), std::string(group)}) {
        if (const auto found = groups.find(name); found != groups.end()) {
            return found->second;
        }
    }
    return bits;
}

bool Quantization::quantized() const {
    return bits.quantized() || std::any_of(groups.begin(), groups.end(), [](const auto& entry) {
               return entry.second.quantized();
           });
}

std::string Quantization::name() const {
    if (!quantized()) {
        return "none";
    }
    const auto name = fmt::format("w{}a{}", bits.weights, bits.activations);
    return groups.empty() ? name : name + " with exceptions";
}

const Component& ModelBundle::at(std::string_view role) const {
    const auto found = components.find(role);
    if (found == components.end()) {
        throw Error(ErrorCode::bad_file, fmt::format("the model has no {}", role));
    }
    return found->second;
}

const std::vector<std::byte>& ModelBundle::tokenizer(std::string_view role) const {
    const auto found = tokenizers.find(role);
    if (found == tokenizers.end()) {
        throw Error(ErrorCode::bad_file, fmt::format("the model has no {}", role));
    }
    return found->second;
}

}  // namespace quantsparse::format
