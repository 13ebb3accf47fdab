#include "kernels/matmul.hpp"

#include <fmt/format.h>

#include "kernels/loads.hpp"
#include "kernels/matmul_shape.hpp"
#include "kernels/matrix_tiles.hpp"

namespace quantsparse::kernels {
namespace {

struct Push {
    std::uint32_t m, k, n4, a_stride4, b_stride4, out_stride4, factor_stride4, residual_stride4,
        gate_offset4, column4;
};
static_assert(sizeof(Push) == 40, "gemm_float.comp declares the same block");

shaders::ShaderId shader_of(bool half, bool texels) {
    using shaders::ShaderId;
    if (texels) return half ? ShaderId::gemm_float_f16_texels : ShaderId::gemm_float_f32_texels;
    return half ? ShaderId::gemm_float_f16 : ShaderId::gemm_float_f32;
}

}  // namespace

FloatWeight add_float_weight(Program& program, const std::string& name, int n, int k, bool half,
                             bool has_bias, program::Lifetime lifetime) {
    FloatWeight weight{name, n, k, half, {}, {}};
    const std::uint64_t column_bytes = static_cast<std::uint64_t>(k) * (half ? 2 : 4);
    const std::uint64_t fit = program.limits().max_binding_bytes / column_bytes / 4 * 4;
    const int panel_columns = static_cast<int>(std::max<std::uint64_t>(
        4, std::min<std::uint64_t>(fit, static_cast<std::uint64_t>(round_up(n, 4)))));
    for (int first = 0; first < n; first += panel_columns) {
        const int columns = std::min(panel_columns, n - first);
        const Tensor tensor = program.add(
            name, column_bytes * static_cast<std::uint64_t>(round_up(columns, 4)), lifetime);
        weight.panels.push_back({tensor, first, columns});
    }
    if (has_bias) {
        weight.bias =
            program.add(name + ".bias", static_cast<std::uint64_t>(round_up(n, 4)) * 4, lifetime);
    }
    return weight;
}

void matmul(Program& program, const std::string& name, const Matrix& a, const FloatWeight& weight,
            const Matrix& out, const Epilogue& epilogue) {
    using program::read;
    using program::unused;
    const MatmulShape shape = matmul_shape(program.limits(), a.rows);
    const std::uint64_t widest = std::max({a.row_bytes(), out.row_bytes(),
                                           epilogue.factor ? epilogue.factor->row_bytes() : 0,
                                           epilogue.residual ? epilogue.residual->row_bytes() : 0});
    const int chunk = rows_per_dispatch(program, widest, a.rows);
    const std::vector<std::uint32_t> constants = {shape.lanes,
                                                  shape.rows,
                                                  0,
                                                  0,
                                                  weight.bias.valid(),
                                                  static_cast<std::uint32_t>(epilogue.activation),
                                                  epilogue.factor != nullptr,
                                                  epilogue.residual != nullptr,
                                                  epilogue.gate.valid()};

    for (int first = 0; first < a.rows; first += chunk) {
        const int rows = std::min(chunk, a.rows - first);
        for (const FloatWeight::Panel& panel : weight.panels) {
            const std::uint32_t n4 = ceil_div(static_cast<std::uint64_t>(panel.columns), 4);
            const program::Binding input = read_rows(a, first, rows);
            const program::Binding columns = read(panel.tensor);
            const Loads load = loads(program, {input, columns});
            const program::Limits& limits = program.limits();
            const bool units =
                limits.arithmetic == Arithmetic::matrix && weight.half && rows >= kFewestMatrixRows;
            const MatrixTile tile =
                units ? matrix_tile(limits, limits.matrix_half, true, rows, panel.columns)
                      : MatrixTile{};
            const Push push = {
                static_cast<std::uint32_t>(rows),
                static_cast<std::uint32_t>(weight.k),
                n4,
                static_cast<std::uint32_t>(a.stride / 4),
                n4,
                static_cast<std::uint32_t>(out.stride / 4),
                epilogue.factor ? static_cast<std::uint32_t>(epilogue.factor->stride / 4) : 0,
                epilogue.residual ? static_cast<std::uint32_t>(epilogue.residual->stride / 4) : 0,
                static_cast<std::uint32_t>(epilogue.gate_offset / 4),
                static_cast<std::uint32_t>(panel.first_column / 4)};
            program.dispatch(
                name,
                !units            ? shader_of(weight.half, load.texels)
                : tile.tiles == 4 ? shaders::ShaderId::gemm_matrix_half_4
                                  : shaders::ShaderId::gemm_matrix_half_2,
                units ? matrix_constants(constants, limits, limits.matrix_half, tile) : constants,
                {load(input), load(columns), write_rows(out, first, rows),
                 weight.bias.valid() ? read(weight.bias) : unused(a.tensor),
                 epilogue.factor ? read_rows(*epilogue.factor, first, rows) : unused(a.tensor),
                 epilogue.residual ? read_rows(*epilogue.residual, first, rows) : unused(a.tensor),
                 epilogue.gate.valid() ? read(epilogue.gate) : unused(a.tensor)},
                push,
                {ceil_div(n4, units ? tile.columns(limits.matrix_half) / 4 : shape.lanes),
                 ceil_div(static_cast<std::uint64_t>(rows),
                          units ? tile.rows(limits.matrix_half) : shape.rows),
                 1},
                2.0 * rows * panel.columns * weight.k);
        }
    }
}

}  // namespace quantsparse::kernels
