// Between files and LibTorch.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/checkpoint.hpp"

namespace quantsparse::calib {

/// A tensor as fp32. Throws Error(non_finite) naming it when it holds NaN or infinity.
at::Tensor load_tensor(const format::Checkpoint& checkpoint, const std::string& name);

/// The float values of a contiguous CPU tensor.
std::span<const float> values_of(const at::Tensor& tensor);

/// Half precision, as model files store it, and back.
std::vector<std::uint16_t> half_values(std::span<const float> values);
std::vector<std::uint16_t> half_values(const at::Tensor& tensor);
std::vector<float> float_values(std::span<const std::uint16_t> halves);

}  // namespace quantsparse::calib
