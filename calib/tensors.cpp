#include "calib/tensors.hpp"

#include <fmt/format.h>

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

}  // namespace quantsparse::calib
