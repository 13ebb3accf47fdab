// A block's output error in which attended tokens count more (S2Q-VDiT, method 7.2).
#pragma once

#include <ATen/ATen.h>

namespace quantsparse::calib {

/// What each token counts: in proportion to the attention it receives, mean 1. fp32 [tokens].
at::Tensor token_weights(const at::Tensor& received);

/// Mean of (y - target)^2 [tokens, width], each token by its weight; undefined: all by 1.
at::Tensor token_error(const at::Tensor& y, const at::Tensor& target, const at::Tensor& weights);

}  // namespace quantsparse::calib
