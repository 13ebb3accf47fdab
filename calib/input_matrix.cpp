#include "calib/input_matrix.hpp"

#include <algorithm>
#include <cmath>

#include "calib/orthogonal.hpp"
#include "format/safetensors.hpp"

namespace quantsparse::calib {

at::Tensor input_matrix(std::span<const float> signs, int b, std::span<const float> scale) {
    auto c = at::empty({std::ssize(scale) / b, 1, b}, at::kFloat);
    std::copy(scale.begin(), scale.end(), c.data_ptr<float>());
    return signed_hadamard(signs, b) / c;
}

at::Tensor normalised_scale(const at::Tensor& scale) {
    return scale / scale.min();
}

InputMatrixParts parts_of(std::span<const std::uint16_t> halves, int b) {
    auto matrix = at::empty({std::ssize(halves) / b / b, b, b}, at::kFloat);
    std::transform(halves.begin(), halves.end(), matrix.data_ptr<float>(), format::float_from_half);
    // Columns of R have length 1 and elements of one size.
    return {matrix.sign() / std::sqrt(static_cast<double>(b)),
            matrix.norm(2, at::IntArrayRef{1}).reciprocal().flatten()};
}

}  // namespace quantsparse::calib
