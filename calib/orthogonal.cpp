#include "calib/orthogonal.hpp"

#include <bit>
#include <cmath>

namespace quantsparse::calib {

int rotation_block(int k, int wanted) {
    int block = 1;
    while (2 * block <= wanted && k % (2 * block) == 0) {
        block *= 2;
    }
    return block;
}

at::Tensor signed_hadamard(std::span<const float> signs, int b) {
    const auto blocks = static_cast<std::int64_t>(signs.size()) / b;
    auto result = at::empty({blocks, b, b}, at::kFloat);
    float* out = result.data_ptr<float>();
    const float size = 1.0f / std::sqrt(static_cast<float>(b));
    for (std::size_t i = 0; i < signs.size(); ++i) {
        const auto row = static_cast<unsigned>(i) % static_cast<unsigned>(b);
        for (unsigned j = 0; j < static_cast<unsigned>(b); ++j) {
            *out++ = (std::popcount(row & j) % 2 ? -size : size) * signs[i];
        }
    }
    return result;
}

at::Tensor cayley(const at::Tensor& start, const at::Tensor& t) {
    const auto s = t - t.transpose(-1, -2);
    const auto identity = at::eye(t.size(-1), t.options());
    // (I - S) and (I + S)^-1 commute, so either side may be solved.
    return at::matmul(start, at::linalg_solve(identity + s, identity - s));
}

at::Tensor rotate_rows(const at::Tensor& rows, const at::Tensor& rotation) {
    if (!rotation.defined()) {
        return rows;
    }
    const auto blocks = rotation.size(0);
    const auto b = rotation.size(1);
    return at::bmm(rows.reshape({rows.size(0), blocks, b}).transpose(0, 1), rotation)
        .transpose(0, 1)
        .reshape({rows.size(0), blocks * b});
}

}  // namespace quantsparse::calib
