// Between files and LibTorch.
#pragma once

#include <ATen/ATen.h>

#include <span>
#include <string>

#include "format/checkpoint.hpp"

namespace quantsparse::calib {

/// A tensor as fp32. Throws Error(non_finite) naming it when it holds NaN or infinity.
at::Tensor load_tensor(const format::Checkpoint& checkpoint, const std::string& name);

/// The float values of a contiguous CPU tensor.
std::span<const float> values_of(const at::Tensor& tensor);

}  // namespace quantsparse::calib
