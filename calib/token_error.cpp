#include "calib/token_error.hpp"

namespace quantsparse::calib {

at::Tensor token_weights(const at::Tensor& received) {
    return (received / received.mean()).to(at::kFloat);
}

at::Tensor token_error(const at::Tensor& y, const at::Tensor& target, const at::Tensor& weights) {
    const auto squares = (y - target).square();
    return (weights.defined() ? squares * weights.unsqueeze(1) : squares).mean();
}

}  // namespace quantsparse::calib
