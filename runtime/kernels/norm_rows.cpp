#include <shaders/norm_rows.hpp>

#include "kernels/loads.hpp"
#include "kernels/rows.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {

void normalize_rows(Program& program, const std::string& name, const Matrix& input,
                    const Matrix& out, const Norm& norm) {
    using shaders::ShaderId;
    using Constant = shaders::norm_rows::Constant;
    const Loads load = row_loads(
        program, input,
        input.columns % 4 == 0 && norm.shift_offset % 4 == 0 && norm.scale_offset % 4 == 0,
        {norm.weight, norm.bias, norm.modulation});
    const auto optional = [&](Tensor t) { return load.optional(t, input.tensor); };
    const std::uint32_t lanes = load.texels ? kPrivateLanes : row_lanes(program);
    const Specialization<Constant> constants(lanes, {{Constant::kind, u32(int(norm.kind))},
                                                     {Constant::has_weight, norm.weight.valid()},
                                                     {Constant::has_bias, norm.bias.valid()},
                                                     {Constant::modulate, norm.modulation.valid()},
                                                     {Constant::watch, norm.watch.valid()}});
    const int chunk = std::min(kMaxRows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    for (int first = 0; first < input.rows; first += chunk) {
        const int rows = std::min(chunk, input.rows - first);
        program.dispatch(
            name, load.texels ? ShaderId::norm_rows_private : ShaderId::norm_rows, constants,
            {load(read_rows(input, first, rows)), write_rows(out, first, rows),
             optional(norm.weight), optional(norm.bias), optional(norm.modulation),
             norm.watch.valid() ? program::read_write(norm.watch) : program::unused(input.tensor)},
            shaders::norm_rows::Push{.columns = u32(input.columns),
                                     .stride = u32(input.stride),
                                     .shift_offset = u32(norm.shift_offset),
                                     .scale_offset = u32(norm.scale_offset),
                                     .eps = norm.eps,
                                     .site = u32(norm.site),
                                     .rows = u32(rows)},
            {load.texels ? ceil_div(u32(rows), lanes) : u32(rows), 1, 1},
            12.0 * rows * input.columns);
    }
}

}  // namespace quantsparse::kernels
