// How much rounding changes what the transformer makes of an input: min-max codes for weights and
// rows, all blocks at once.
#pragma once

#include <vector>

#include "calib/transformer.hpp"

namespace quantsparse::calib {

/// |v' - v|^2 / |v|^2 of each input, v being `predictions`, those of the floating-point
/// transformer.
std::vector<double> output_changes(const format::Component& component,
                                   const Transformer& transformer,
                                   const format::Quantization& quantization,
                                   const std::vector<TransformerInput>& inputs,
                                   const std::vector<at::Tensor>& predictions, int threads);

}  // namespace quantsparse::calib
