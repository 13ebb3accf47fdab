#include <shaders/gemm_matrix.hpp>

#include "kernels/gemm.hpp"
#include "kernels/matrix_tiles.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;

ShaderId shader_of(int weight_bits, bool large) {
    switch (weight_bits) {
        case 4:
            return large ? ShaderId::gemm_matrix_w4_4 : ShaderId::gemm_matrix_w4_2;
        case 6:
            return large ? ShaderId::gemm_matrix_w6_4 : ShaderId::gemm_matrix_w6_2;
        case 8:
            return large ? ShaderId::gemm_matrix_w8_4 : ShaderId::gemm_matrix_w8_2;
        default:
            return large ? ShaderId::gemm_matrix_half_4 : ShaderId::gemm_matrix_half_2;
    }
}

}  // namespace

std::optional<GemmPass> gemm_matrix(const program::Limits& limits, const GemmCall& call) {
    if (limits.arithmetic != Arithmetic::matrix || call.weight_bits == 32 ||
        call.weight_bits == 3 || call.rows < kFewestMatrixRows) {  // 3 bits: without a module
        return std::nullopt;
    }
    using Constant = shaders::gemm_matrix::Constant;
    const bool half = call.weight_bits == 16;
    const MatrixShape& shape = half ? limits.matrix_half : limits.matrix_int8;
    const MatrixTile tile = matrix_tile(limits, shape, half, call.rows, call.columns);
    const std::uint32_t lanes = tile.subgroups * limits.subgroup;
    Specialization<Constant> constants(lanes,
                                       {{Constant::write_accumulators, call.accumulators},
                                        {Constant::lanes, lanes},
                                        {Constant::m, shape.m},
                                        {Constant::n, shape.n},
                                        {Constant::k, shape.k},
                                        {Constant::subgroup, limits.subgroup},
                                        {Constant::subgroup_columns, tile.subgroup_columns}});
    set_epilogue(constants, call);
    return GemmPass{shader_of(call.weight_bits, tile.tiles == 4), constants, tile.rows(shape),
                    tile.columns(shape) / 4};
}

}  // namespace quantsparse::kernels
