#include <shaders/gemm_float.hpp>

#include "kernels/gemm.hpp"
#include "kernels/loads.hpp"
#include "kernels/matmul_shape.hpp"

namespace quantsparse::kernels {
namespace {

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

GemmPass gemm_float(const program::Limits& limits, const GemmCall& call) {
    using Constant = shaders::gemm_float::Constant;
    const MatmulShape shape = matmul_shape(limits, call.all_rows);
    Specialization<Constant> constants(shape.lanes, {{Constant::rows, shape.rows}});
    set_epilogue(constants, call);
    return {shader_of(call.weight_bits == 16, call.texels), constants, shape.rows, shape.lanes,
            call.texels};
}

void matmul(Program& program, const std::string& name, const Matrix& a, const FloatWeight& weight,
            const Matrix& out, const Epilogue& epilogue) {
    const int chunk = rows_per_dispatch(program, widest_row(a.row_bytes(), out, epilogue), a.rows);
    for (int first = 0; first < a.rows; first += chunk) {
        const int rows = std::min(chunk, a.rows - first);
        for (const FloatWeight::Panel& panel : weight.panels) {
            const program::Binding input = read_rows(a, first, rows);
            const program::Binding columns = program::read(panel.tensor);
            const GemmCall call{.rows = rows,
                                .all_rows = a.rows,
                                .columns = panel.columns,
                                .weight_bits = weight.half ? 16 : 32,
                                .texels = loads(program, {input, columns}).texels,
                                .bias = weight.bias.valid(),
                                .epilogue = epilogue};
            const auto units = gemm_matrix(program.limits(), call);
            const GemmPass pass = units ? *units : gemm_float(program.limits(), call);
            const Loads load{pass.texels};
            std::vector<program::Binding> bindings = {load(input), load(columns)};
            append_epilogue(bindings, out, weight.bias, epilogue, first, rows, a.tensor);
            program.dispatch(name, pass.shader, pass.constants, bindings,
                             shaders::gemm_float::Push{
                                 .m = u32(rows),
                                 .k = u32(weight.k),
                                 .n4 = call.columns4(),
                                 .a_stride4 = stride4(&a),
                                 .b_stride4 = call.columns4(),
                                 .out_stride4 = stride4(&out),
                                 .factor_stride4 = stride4(epilogue.factor),
                                 .residual_stride4 = stride4(epilogue.residual),
                                 .gate_offset4 = u32(epilogue.gate_offset / 4),
                                 .column4 = u32(panel.first_column / 4),
                             },
                             pass.groups(call), 2.0 * rows * panel.columns * weight.k);
        }
    }
}

}  // namespace quantsparse::kernels
