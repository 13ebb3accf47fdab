// What error feedback leaves, taken down further (method 2.6): coordinate descent over codes, as
// QuantEase (Behdin et al., arXiv 2309.01885).
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <vector>

#include "format/bit_packing.hpp"

namespace quantsparse::calib {

/// `hessian` fp32 [k, k] in the basis of the weight; `added` to its diagonal.
struct OutputError {
    at::Tensor hessian;
    double added = 0;
};

/// Goes over the columns `passes` times and gives each code the value that makes e H e^T smallest
/// while all others stay, e = w - Q(w) for each of the n rows. No row's error grows; scales stay.
/// The same codes for any number of threads.
void descend(std::span<const float> weight, int n, int k, int bits, const OutputError& error,
             int passes, int threads, format::QuantizedWeight& quantized);

}  // namespace quantsparse::calib
