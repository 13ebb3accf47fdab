#pragma once

#include <string>

#include "kernels/rows.hpp"

namespace quantsparse::kernels {

/// The same values as halves, 0.5 times as many bytes at 0.5 times the offsets.
Tensor pack_halves(Program& program, const std::string& name, const HeadMatrix& m);

}  // namespace quantsparse::kernels
