// Tile shape of the register-tiled matrix kernels, float and integer alike.
#pragma once

#include "program/program.hpp"

namespace quantsparse::kernels {

struct MatmulShape {
    std::uint32_t lanes;  ///< invocations of a work-group; each owns 4 columns
    std::uint32_t rows;   ///< rows an invocation computes
};

inline MatmulShape matmul_shape(const program::Limits& limits, int rows) {
    // CPU drivers: loads that differ between lanes are taken apart, so tall tiles pay; a GPU's
    // registers allow 8 rows of 4 accumulators with room for latency hiding.
    const std::uint32_t tall = limits.runs_on_cpu ? 16 : 8;
    return {limits.runs_on_cpu ? 8u : 64u, rows == 1 ? 1u : rows <= 4 ? 4u : tall};
}

}  // namespace quantsparse::kernels
