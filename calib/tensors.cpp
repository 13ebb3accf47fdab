#include "calib/tensors.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::calib {

at::Tensor load_tensor(const format::Checkpoint& checkpoint, const std::string& name) {
    const auto& view = checkpoint.at(name);
    auto tensor = at::empty(view.shape, at::kFloat);
    format::to_float(view, {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())});
    if (!at::isfinite(tensor).all().item<bool>()) {
        throw Error(ErrorCode::non_finite,
                    fmt::format("tensor '{}' of '{}' holds NaN or infinity; the checkpoint is "
                                "damaged, download it again",
                                name, checkpoint.path().string()));
    }
    return tensor;
}

std::span<const float> values_of(const at::Tensor& tensor) {
    return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

std::vector<std::uint16_t> half_values(std::span<const float> values) {
    std::vector<std::uint16_t> halves(values.size());
    std::transform(values.begin(), values.end(), halves.begin(), format::half_from_float);
    return halves;
}

std::vector<std::uint16_t> half_values(const at::Tensor& tensor) {
    const auto values = tensor.detach().to(at::kFloat).contiguous();
    return half_values(values_of(values));
}

std::vector<float> float_values(std::span<const std::uint16_t> halves) {
    std::vector<float> values(halves.size());
    std::transform(halves.begin(), halves.end(), values.begin(), format::float_from_half);
    return values;
}

}  // namespace quantsparse::calib
