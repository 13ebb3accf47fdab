#include <algorithm>
#include <shaders/quantize_rows.hpp>

#include "kernels/loads.hpp"
#include "kernels/quantized_matmul.hpp"
#include "kernels/rotations.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;
using Constant = shaders::quantize_rows::Constant;

/// Codes, scales and sums of rows first .. first+count-1 of `out` from the `rows` bound, which are
/// of a matrix like `from`.
void quantize_chunk(Program& program, const std::string& name, const program::Binding& rows,
                    const Matrix& from, Tensor multiplier, Tensor clip, int bits, int first,
                    int count, const QuantizedRows& out) {
    using program::write;
    const std::uint64_t f = static_cast<std::uint64_t>(first);
    const std::uint64_t c = static_cast<std::uint64_t>(count);
    const std::uint64_t word_bytes = static_cast<std::uint64_t>(round_up(out.k, kKAlignment));
    Loads load = loads(program, {rows}, {multiplier});
    load.texels = load.texels && from.columns % 4 == 0;
    const std::uint32_t lanes = load.texels ? kPrivateLanes : row_lanes(program);
    program.dispatch(
        name, load.texels ? ShaderId::quantize_rows_private : ShaderId::quantize_rows,
        Specialization<Constant>(lanes, {{Constant::has_multiplier, multiplier.valid()},
                                         {Constant::clip, clip.valid()}}),
        {load(rows), load.optional(multiplier, from.tensor),
         write(out.words, f * word_bytes, c * word_bytes), write(out.scales, f * 4, c * 4),
         write(out.row_sums, f * 4, c * 4),
         clip.valid() ? program::read(clip) : program::unused(from.tensor)},
        shaders::quantize_rows::Push{.m = u32(count),
                                     .k = u32(from.columns),
                                     .in_stride = u32(from.stride),
                                     .k_words = static_cast<std::uint32_t>(word_bytes / 4),
                                     .qmax = static_cast<float>((1 << (bits - 1)) - 1)},
        {load.texels ? ceil_div(c, lanes) : u32(count), 1, 1}, 20.0 * count * from.columns);
}

}  // namespace

QuantizedRows quantize_rows(Program& program, const std::string& name, const Matrix& input,
                            const InputTransform& transform, int bits) {
    const int k_words = round_up(input.columns, kKAlignment) / 4;
    QuantizedRows out{input.rows, input.columns, bits, {}, {}, {}};
    const std::uint64_t rows = static_cast<std::uint64_t>(input.rows);
    out.words = program.add(name + ".codes", rows * static_cast<std::uint64_t>(k_words) * 4);
    out.scales = program.add(name + ".scales", rows * 4);
    out.row_sums = program.add(name + ".row_sums", rows * 4);

    int chunk = std::min(
        kMaxRows, rows_per_dispatch(
                      program, std::max(input.row_bytes(), static_cast<std::uint64_t>(k_words) * 4),
                      input.rows));
    if (transform.rotation_block > 1 && !transform.rotation.valid()) {
        chunk = static_cast<int>(std::min<std::uint64_t>(
            static_cast<std::uint64_t>(chunk),
            most_hadamard_rows(program, input.columns, transform.rotation_block)));
    }
    Matrix rotated;
    if (transform.rotation_block > 1 || transform.rotation.valid()) {
        rotated =
            add_matrix(program, name + ".rotated", std::min(chunk, input.rows), input.columns);
    }
    for (int first = 0; first < input.rows; first += chunk) {
        const int count = std::min(chunk, input.rows - first);
        if (!rotated.tensor.valid()) {
            quantize_chunk(program, name, read_rows(input, first, count), input,
                           transform.multiplier, transform.clip, bits, first, count, out);
        } else if (transform.rotation.valid()) {
            rotate_rows(program, name, input, first, count, transform, rotated);
            quantize_chunk(program, name, read_rows(rotated, 0, count), rotated, {}, transform.clip,
                           bits, first, count, out);
        } else {
            const Matrix result =
                hadamard_rows(program, name, input, first, count, transform, rotated);
            quantize_chunk(program, name, read_rows(result, 0, count), result, {}, transform.clip,
                           bits, first, count, out);
        }
    }
    return out;
}

}  // namespace quantsparse::kernels
