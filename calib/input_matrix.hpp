// Rotation and channel scale as one matrix per block of input channels, for systems that rotate
// first and scale then (QuantVGGT, method 7.2): x' = (x R) / c = x M with M = R diag(1/c), and the
// weight is W' = (W R) diag(c). The model file holds M in the place of a learned rotation.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

namespace quantsparse::calib {

/// R diag(1/c) [k / b, b, b] for the block Hadamard rotation with `signs` [k] and scale [k].
at::Tensor input_matrix(std::span<const float> signs, int b, std::span<const float> scale);

/// c without the common factor that no quantiser sees, so that its least value is 1: elements of
/// R diag(1/c) then fit the file, which takes none above 1.
at::Tensor normalised_scale(const at::Tensor& scale);

struct InputMatrixParts {
    at::Tensor rotation;  ///< [k / b, b, b], fp32, exact
    at::Tensor scale;     ///< [k]
};
/// Back from the stored halves of an input_matrix().
InputMatrixParts parts_of(std::span<const std::uint16_t> halves, int b);

}  // namespace quantsparse::calib
