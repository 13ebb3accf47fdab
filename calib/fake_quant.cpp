#include "calib/fake_quant.hpp"

namespace quantsparse::calib {
namespace {

/// Largest magnitude of each row [m, 1]; an all-zero row counts as qmax, for the scale 1.
at::Tensor row_absmax(const at::Tensor& x, double qmax) {
    const auto largest = x.abs().amax(1, true);
    return at::where(largest > 0, largest, at::full({}, qmax, x.options()));
}

}  // namespace

at::Tensor straight_through_quantize(const at::Tensor& v, const at::Tensor& scale, double lowest,
                                     double highest) {
    // at::round rounds half to even. The detached difference carries no gradient.
    const auto clipped = (v / scale).clamp(lowest, highest);
    return (clipped + (clipped.round() - clipped).detach()) * scale;
}

at::Tensor learnable_weight_quantize(const at::Tensor& weight, const at::Tensor& gamma, int bits) {
    const double qmax = (1 << (bits - 1)) - 1;
    const auto scale = row_absmax(weight, qmax) * gamma.unsqueeze(1) / qmax;
    return straight_through_quantize(weight, scale, -qmax - 1, qmax);
}

at::Tensor clip_ends(const at::Tensor& weight, const at::Tensor& low, const at::Tensor& high) {
    const auto least = weight.amin(1, true).clamp_max(0) * low.unsqueeze(1);
    const auto largest = weight.amax(1, true).clamp_min(0) * high.unsqueeze(1);
    return at::minimum(at::maximum(weight, least), largest);
}

at::Tensor learnable_row_quantize(const at::Tensor& rows, const at::Tensor& clip, int bits) {
    const double qmax = (1 << (bits - 1)) - 1;
    auto scale = row_absmax(rows, qmax) / qmax;
    if (clip.defined()) {
        scale = scale * clip;
    }
    return straight_through_quantize(rows, scale, -qmax, qmax);
}

}  // namespace quantsparse::calib
