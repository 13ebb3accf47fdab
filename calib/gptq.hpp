// Rounding with error feedback (method 2.6): GPTQ (Frantar et al., arXiv 2210.17323). The error
// that rounding a column of the weight makes is taken back, as far as the inputs allow, by the
// columns that are still to be rounded.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "calib/gptq_descent.hpp"
#include "calib/hessian.hpp"
#include "calib/method.hpp"
#include "format/bit_packing.hpp"
#include "format/network.hpp"

namespace quantsparse::calib {

/// H = sum x^T x of raw inputs, fp32 [k, k], in the basis of the stored weight:
/// R^T diag(1/c) H diag(1/c) R. `rotation` [k / b, b, b]; undefined: none.
at::Tensor transformed_hessian(const at::Tensor& hessian, std::span<const float> channel_scale,
                               const at::Tensor& rotation, int threads);

/// Which columns take back an error, and how much of it. Made once for all linears of an input.
struct ErrorFeedback {
    std::vector<std::int64_t> order;  ///< columns of the weight; the last is rounded first
    /// fp32 [k, k], below the diagonal: an error e in column order[s] adds e * shares[s][r] to
    /// column order[r], r < s.
    at::Tensor shares;
    OutputError error;  ///< what it keeps small; undefined for inputs of zeros
};

/// `hessian`: fp32 [k, k], in the basis of the weight. `damping`, a share of the mean of its
/// diagonal, is added to the diagonal; ten times more as long as it is not positive definite.
ErrorFeedback error_feedback(const at::Tensor& hessian, double damping, int threads);

/// That of a group, in the basis its weights are stored in. Nothing where the method rounds to
/// nearest. Text enters some groups once per prompt, few rows in all: their damping is higher.
/// Refined rounding has more than GPTQ's, too: guided rows stress what few directions say.
std::optional<ErrorFeedback> group_feedback(const format::LinearGroup& group, const Method& method,
                                            const BlockHessians& hessians,
                                            std::span<const float> channel_scale,
                                            const at::Tensor& rotation, int threads);

/// As format::quantize_weight(), with the same scales, but codes that keep sum (x W^T - x Q(W)^T)^2
/// small over the inputs rather than each weight's own error. The same codes for any number of
/// threads.
format::QuantizedWeight quantize_with_feedback(std::span<const float> weight, int n, int k,
                                               int bits, std::span<const float> gamma,
                                               const ErrorFeedback& feedback, int threads);

/// The weight of a linear rounded as the method says. `feedback`: of its group; none: to nearest.
format::QuantizedWeight round_weight(std::span<const float> weight, int n, int k, int bits,
                                     std::span<const float> gamma, Rounding rounding,
                                     const std::optional<ErrorFeedback>& feedback, int threads);

}  // namespace quantsparse::calib
