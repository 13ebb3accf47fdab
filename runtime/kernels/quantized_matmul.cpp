#include "kernels/quantized_matmul.hpp"

#include <bit>

#include "kernels/matmul_shape.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;

constexpr int kKAlignment = 32;  // of packed codes, as format/bit_packing.hpp says

struct QuantizePush {
    std::uint32_t m, k, in_stride, k_words;
    float qmax;
};
static_assert(sizeof(QuantizePush) == 20, "quantize_rows.comp declares the same block");

struct RotatePush {
    std::uint32_t m, k4, b4, in_stride4, out_stride4;
};
static_assert(sizeof(RotatePush) == 20, "rotate_rows.comp declares the same block");

struct GemmPush {
    std::uint32_t m, k8, n4, x_stride4, n_stride4, out_stride4, factor_stride4, residual_stride4,
        gate_offset4, high_plane4;
};
static_assert(sizeof(GemmPush) == 40, "gemm_quantized.comp declares the same block");

ShaderId gemm_shader(int bits, Arithmetic arithmetic, bool texels) {
    const bool dot = arithmetic == Arithmetic::dot;
    const auto of = [&](ShaderId portable, ShaderId packed, ShaderId portable_texels,
                        ShaderId packed_texels) {
        return texels ? (dot ? packed_texels : portable_texels) : (dot ? packed : portable);
    };
    switch (bits) {
        case 4:
            return of(ShaderId::gemm_quantized_w4_portable, ShaderId::gemm_quantized_w4_dot,
                      ShaderId::gemm_quantized_w4_portable_texels,
                      ShaderId::gemm_quantized_w4_dot_texels);
        case 6:
            return of(ShaderId::gemm_quantized_w6_portable, ShaderId::gemm_quantized_w6_dot,
                      ShaderId::gemm_quantized_w6_portable_texels,
                      ShaderId::gemm_quantized_w6_dot_texels);
        case 8:
            return of(ShaderId::gemm_quantized_w8_portable, ShaderId::gemm_quantized_w8_dot,
                      ShaderId::gemm_quantized_w8_portable_texels,
                      ShaderId::gemm_quantized_w8_dot_texels);
        default:
            throw Error(ErrorCode::unsupported, "weights must have 4, 6 or 8 bits");
    }
}

/// Rows first .. first+count-1 of `input`, scaled and rotated, into the first rows of `out`.
void rotate_chunk(Program& program, const std::string& name, const Matrix& input, int first,
                  int count, const InputTransform& transform, const Matrix& out) {
    using program::read;
    const int b = transform.rotation_block;
    if (b % 4 != 0 || input.columns % b != 0) {
        throw Error(ErrorCode::invalid_argument,
                    "a learned rotation needs blocks of a multiple of 4 that divide the columns");
    }
    const MatmulShape shape = matmul_shape(program.limits(), count);
    const auto k4 = static_cast<std::uint32_t>(input.columns / 4);
    program.dispatch(
        name + ".rotate", ShaderId::rotate_rows,
        {shape.lanes, shape.rows, transform.multiplier.valid()},
        {read_rows(input, first, count),
         transform.multiplier.valid() ? read(transform.multiplier) : program::unused(input.tensor),
         read(transform.rotation), write_rows(out, 0, count)},
        RotatePush{static_cast<std::uint32_t>(count), k4, static_cast<std::uint32_t>(b / 4),
                   static_cast<std::uint32_t>(input.stride / 4),
                   static_cast<std::uint32_t>(out.stride / 4)},
        {ceil_div(k4, shape.lanes), ceil_div(static_cast<std::uint64_t>(count), shape.rows), 1},
        2.0 * count * input.columns * b);
}

}  // namespace

QuantizedWeight add_quantized_weight(Program& program, const std::string& name, int n, int k,
                                     int bits, bool has_bias) {
    QuantizedWeight weight{name, n, k, bits, {}, {}, {}};
    const auto lifetime = program::Lifetime::constant;
    const std::uint64_t codes = static_cast<std::uint64_t>(round_up(k, kKAlignment)) *
                                static_cast<std::uint64_t>(round_up(n, 4));
    weight.words =
        program.add(name + ".codes", codes * static_cast<std::uint64_t>(bits) / 8, lifetime);
    const std::uint64_t vector_bytes = static_cast<std::uint64_t>(round_up(n, 4)) * 4;
    weight.scale = program.add(name + ".scale", vector_bytes, lifetime);
    if (has_bias) weight.bias = program.add(name + ".bias", vector_bytes, lifetime);
    return weight;
}

QuantizedRows quantize_rows(Program& program, const std::string& name, const Matrix& input,
                            const InputTransform& transform, int bits) {
    using program::read;
    using program::unused;
    using program::write;
    const int k_words = round_up(input.columns, kKAlignment) / 4;
    QuantizedRows out{input.rows, input.columns, {}, {}, {}};
    const std::uint64_t rows = static_cast<std::uint64_t>(input.rows);
    out.words = program.add(name + ".codes", rows * static_cast<std::uint64_t>(k_words) * 4);
    out.scales = program.add(name + ".scales", rows * 4);
    out.row_sums = program.add(name + ".row_sums", rows * 4);

    const std::uint64_t scratch_row = static_cast<std::uint64_t>(k_words) * 16;
    const int chunk =
        std::min({rows_per_dispatch(program, std::max(input.row_bytes(), scratch_row), input.rows),
                  65536 - 64});
    Matrix scratch;
    if (transform.rotation_block) {
        const int scratch_rows = std::min(chunk, input.rows);
        scratch = {
            program.add(name + ".rotated", scratch_row * static_cast<std::uint64_t>(scratch_rows)),
            scratch_rows, input.columns, 4 * k_words, 0};
    }
    const bool learned = transform.rotation.valid();
    const bool multiplies = transform.multiplier.valid() && !learned;  // else it is done already
    const std::uint32_t rotate = transform.rotation_block && !learned
                                     ? static_cast<std::uint32_t>(std::countr_zero(
                                           static_cast<unsigned>(transform.rotation_block)))
                                     : 0;
    for (int first = 0; first < input.rows; first += chunk) {
        const int count = std::min(chunk, input.rows - first);
        const std::uint64_t f = static_cast<std::uint64_t>(first);
        const std::uint64_t c = static_cast<std::uint64_t>(count);
        const std::uint64_t word_bytes = static_cast<std::uint64_t>(k_words) * 4;
        if (learned) rotate_chunk(program, name, input, first, count, transform, scratch);
        program.dispatch(
            name, ShaderId::quantize_rows,
            {row_lanes(program), multiplies, rotate, transform.clip.valid()},
            {learned ? read_rows(scratch, 0, count) : read_rows(input, first, count),
             multiplies ? read(transform.multiplier) : unused(input.tensor),
             rotate ? program::read_write(scratch.tensor) : unused(input.tensor),
             write(out.words, f * word_bytes, c * word_bytes), write(out.scales, f * 4, c * 4),
             write(out.row_sums, f * 4, c * 4),
             transform.clip.valid() ? read(transform.clip) : unused(input.tensor)},
            QuantizePush{
                static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(input.columns),
                static_cast<std::uint32_t>(learned ? scratch.stride : input.stride),
                static_cast<std::uint32_t>(k_words), static_cast<float>((1 << (bits - 1)) - 1)},
            {static_cast<std::uint32_t>(count), 1, 1},
            count * (20.0 + 4.0 * rotate) * input.columns);
    }
    return out;
}

void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const Matrix& out, const Epilogue& epilogue,
            bool accumulators) {
    using program::read;
    using program::unused;
    const MatmulShape shape = matmul_shape(program.limits(), a.rows);
    const int k_padded = round_up(a.k, kKAlignment);
    const std::uint64_t word_bytes = static_cast<std::uint64_t>(k_padded);
    const std::uint64_t widest =
        std::max({word_bytes, out.row_bytes(), epilogue.factor ? epilogue.factor->row_bytes() : 0,
                  epilogue.residual ? epilogue.residual->row_bytes() : 0});
    const int chunk = rows_per_dispatch(program, widest, a.rows);
    const std::uint32_t n4 = ceil_div(static_cast<std::uint64_t>(weight.n), 4);
    const std::vector<std::uint32_t> constants = {shape.lanes,
                                                  shape.rows,
                                                  accumulators,
                                                  0,
                                                  weight.bias.valid(),
                                                  static_cast<std::uint32_t>(epilogue.activation),
                                                  epilogue.factor != nullptr,
                                                  epilogue.residual != nullptr,
                                                  epilogue.gate.valid()};
    for (int first = 0; first < a.rows; first += chunk) {
        const int rows = std::min(chunk, a.rows - first);
        const std::uint64_t f = static_cast<std::uint64_t>(first);
        const std::uint64_t c = static_cast<std::uint64_t>(rows);
        const program::Binding input = read(a.words, f * word_bytes, c * word_bytes);
        const program::Binding codes = read(weight.words);
        const bool texels = program.reads_texels({input, codes});
        const auto load = [&](const program::Binding& b) {
            return texels ? program::as_texels(b) : b;
        };
        const GemmPush push = {
            static_cast<std::uint32_t>(rows),
            static_cast<std::uint32_t>(k_padded / 8),
            n4,
            static_cast<std::uint32_t>(k_padded / 16),
            n4,
            static_cast<std::uint32_t>(out.stride / 4),
            epilogue.factor ? static_cast<std::uint32_t>(epilogue.factor->stride / 4) : 0,
            epilogue.residual ? static_cast<std::uint32_t>(epilogue.residual->stride / 4) : 0,
            static_cast<std::uint32_t>(epilogue.gate_offset / 4),
            static_cast<std::uint32_t>(k_padded / 8) * n4};
        program.dispatch(
            name, gemm_shader(weight.bits, program.limits().arithmetic, texels), constants,
            {load(input), load(codes), write_rows(out, first, rows),
             weight.bias.valid() ? read(weight.bias) : unused(out.tensor),
             epilogue.factor ? read_rows(*epilogue.factor, first, rows) : unused(out.tensor),
             epilogue.residual ? read_rows(*epilogue.residual, first, rows) : unused(out.tensor),
             epilogue.gate.valid() ? read(epilogue.gate) : unused(out.tensor),
             read(a.scales, f * 4, c * 4), read(a.row_sums, f * 4, c * 4), read(weight.scale)},
            push, {ceil_div(n4, shape.lanes), ceil_div(c, shape.rows), 1},
            2.0 * rows * weight.n * weight.k);
    }
}

}  // namespace quantsparse::kernels
