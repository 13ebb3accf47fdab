// The UMT5 encoder on LibTorch (docs/networks/umt5.md).
#pragma once

#include <functional>
#include <vector>

#include <ATen/ATen.h>

#include "format/model_bundle.hpp"

namespace quantsparse::calib {

/// See TextKind::encode.
at::Tensor encode_umt5(const format::Component& encoder, const std::vector<int>& ids,
                       const std::function<void()>& after_layer);

}  // namespace quantsparse::calib
