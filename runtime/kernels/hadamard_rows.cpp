#include <bit>
#include <cmath>
#include <shaders/hadamard_rows.hpp>

#include "kernels/loads.hpp"
#include "kernels/rotations.hpp"
#include "kernels/specialization.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;
using Constant = shaders::hadamard_rows::Constant;

/// Columns an invocation holds in registers. 128 take 168 VGPRs on navi21 and spill 56 on gfx1100.
int widest_hadamard(const Program& program) {
    return program.limits().runs_on_cpu ? 128 : 64;
}
constexpr int kWidestBlock = 1024;

std::uint32_t hadamard_lanes(const Program& program) {
    return program.limits().runs_on_cpu ? kPrivateLanes : 64;
}

/// Points, of four columns, of the narrowest of the passes that hadamard_rows makes.
std::uint64_t narrowest_pass(const Program& program, int block) {
    const int inside = std::min(block, widest_hadamard(program));
    const int points = std::max(1, inside / 4);
    return static_cast<std::uint64_t>(block == inside ? points : std::min(points, block / inside));
}

/// One pass of butterflies over points that are `stride` vec4 apart; rows as in hadamard_rows.
void hadamard_pass(Program& program, const std::string& name, const Matrix& input, int first,
                   int count, int points, int stride, Tensor multiplier, const Matrix& out,
                   int block) {
    const bool first_pass = stride == 1;
    const std::uint32_t lanes = hadamard_lanes(program);
    const std::uint32_t units =
        ceil_div(static_cast<std::uint64_t>(input.columns), static_cast<std::uint64_t>(4 * points));
    const auto rows = read_rows(input, first, count);
    const Loads load = loads(program, {rows}, {multiplier});
    const int inner = first_pass ? std::countr_zero(static_cast<unsigned>(std::min(block, 4))) : 0;
    const Specialization<Constant> constants(lanes,
                                             {{Constant::points, u32(points)},
                                              {Constant::stride, u32(stride)},
                                              {Constant::inner, u32(inner)},
                                              {Constant::has_multiplier, multiplier.valid()}});
    program.dispatch(
        name + ".hadamard", load.texels ? ShaderId::hadamard_rows_texels : ShaderId::hadamard_rows,
        constants, {load(rows), load.optional(multiplier, input.tensor), write_rows(out, 0, count)},
        shaders::hadamard_rows::Push{
            .m = u32(count),
            .k = u32(input.columns),
            .in_stride4 = u32(input.stride / 4),
            .out_stride4 = u32(out.stride / 4),
            .units = units,
            .normalise = first_pass ? 1.0f / std::sqrt(static_cast<float>(block)) : 1.0f},
        {ceil_div(static_cast<std::uint64_t>(count) * units, lanes), 1, 1},
        4.0 * count * input.columns * std::countr_zero(static_cast<unsigned>(4 * points)));
}

}  // namespace

Matrix hadamard_rows(Program& program, const std::string& name, const Matrix& input, int first,
                     int count, const InputTransform& transform, const Matrix& out) {
    const int b = transform.rotation_block;
    if (!std::has_single_bit(static_cast<unsigned>(b)) || input.columns % b != 0 ||
        b > kWidestBlock) {
        throw Error(ErrorCode::invalid_argument,
                    "a Hadamard rotation needs blocks of a power of two that divide the columns");
    }
    const int inside = std::min(b, widest_hadamard(program));
    hadamard_pass(program, name, input, first, count, std::max(1, inside / 4), 1,
                  transform.multiplier, out, b);
    if (b == inside) return out;
    const Matrix wide = {program.add(name + ".rotated", program.bytes_of(out.tensor)), out.rows,
                         out.columns, out.stride, 0};
    hadamard_pass(program, name, out, 0, count, b / inside, inside / 4, {}, wide, b);
    return wide;
}

std::uint64_t most_hadamard_rows(const Program& program, int columns, int rotation_block) {
    // A pass over few points has many invocations a row, and a dispatch 65,535 groups.
    const std::uint64_t fewest = narrowest_pass(program, rotation_block);
    const std::uint64_t a_row = ceil_div(static_cast<std::uint64_t>(columns), 4 * fewest);
    return std::max<std::uint64_t>(64, 65535 * hadamard_lanes(program) / a_row / 64 * 64);
}

}  // namespace quantsparse::kernels
