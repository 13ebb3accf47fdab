#include <shaders/rotate_rows.hpp>

#include "kernels/loads.hpp"
#include "kernels/matmul_shape.hpp"
#include "kernels/rotations.hpp"
#include "kernels/specialization.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {

void rotate_rows(Program& program, const std::string& name, const Matrix& input, int first,
                 int count, const InputTransform& transform, const Matrix& out) {
    const int b = transform.rotation_block;
    if (b % 4 != 0 || input.columns % b != 0) {
        throw Error(ErrorCode::invalid_argument,
                    "a learned rotation needs blocks of a multiple of 4 that divide the columns");
    }
    using shaders::ShaderId;
    using Constant = shaders::rotate_rows::Constant;
    const MatmulShape shape = matmul_shape(program.limits(), count);
    const std::uint32_t k4 = u32(input.columns / 4);
    const auto rows = read_rows(input, first, count);
    const Loads load = loads(program, {rows}, {transform.multiplier, transform.rotation});
    program.dispatch(
        name + ".rotate", load.texels ? ShaderId::rotate_rows_texels : ShaderId::rotate_rows,
        Specialization<Constant>(shape.lanes,
                                 {{Constant::rows, shape.rows},
                                  {Constant::has_multiplier, transform.multiplier.valid()}}),
        {load(rows), load.optional(transform.multiplier, input.tensor),
         load(program::read(transform.rotation)), write_rows(out, 0, count)},
        shaders::rotate_rows::Push{.m = u32(count),
                                   .k4 = k4,
                                   .b4 = u32(b / 4),
                                   .in_stride4 = u32(input.stride / 4),
                                   .out_stride4 = u32(out.stride / 4)},
        {ceil_div(k4, shape.lanes), ceil_div(static_cast<std::uint64_t>(count), shape.rows), 1},
        2.0 * count * input.columns * b);
}

}  // namespace quantsparse::kernels
