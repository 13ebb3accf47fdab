// The Wan DiT on LibTorch (docs/networks/wan.md).
#pragma once

#include "calib/transformer.hpp"

namespace quantsparse::calib {

std::unique_ptr<Transformer> make_wan_dit(const format::Component& component);

}  // namespace quantsparse::calib
