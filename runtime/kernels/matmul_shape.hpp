// Tile shape of the register-tiled matrix kernels, float and integer alike.
#pragma once

#include "program/program.hpp"

namespace quantsparse::kernels {

struct MatmulShape {
    std::uint32_t lanes;  ///< invocations of a work-group; each owns 4 columns
    std::uint32_t rows;   ///< rows an invocation computes
};

inline MatmulShape matmul_shape(const program::Limits& limits, int rows) {
    // CPU drivers: loads that differ between lanes are taken apart, so tall tiles pay. AMD
    // (RADV 22.3, quantsparse-bench isa): with 16 rows 90 % of the vector instructions of the W4A8
    // loop are dot4 and none of about 110 registers spills; with 8 it is 83 %.
    return {limits.runs_on_cpu ? 8u : 64u, rows == 1 ? 1u : rows <= 4 ? 4u : rows <= 8 ? 8u : 16u};
}

}  // namespace quantsparse::kernels
