#include "models/denoising_network.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "quantsparse/error.hpp"

namespace quantsparse::models {

void DenoisingNetwork::write(program::Executor& executor, std::string_view name,
                             std::span<const float> values) const {
    const auto input = std::find_if(inputs_.begin(), inputs_.end(),
                                    [&](const NetworkInput& i) { return i.name == name; });
    if (input == inputs_.end()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("the transformer takes no input '{}'", name));
    }
    if (input->encode) {
        const std::vector<float> encoded = input->encode(values);
        executor.write_values(input->tensor, std::span<const float>(encoded));
    } else {
        executor.write_values(input->tensor, values);
    }
}

}  // namespace quantsparse::models
