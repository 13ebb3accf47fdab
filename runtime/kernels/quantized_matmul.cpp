#include "kernels/quantized_matmul.hpp"

#include <bit>
#include <cmath>

#include "kernels/loads.hpp"
#include "kernels/matmul_shape.hpp"
#include "kernels/matrix_tiles.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;

constexpr int kKAlignment = 32;  // of packed codes, as format/bit_packing.hpp says

struct QuantizePush {
    std::uint32_t m, k, in_stride, k_words;
    float qmax;
};
static_assert(sizeof(QuantizePush) == 20, "quantize_rows*.comp declare the same block");

struct HadamardPush {
    std::uint32_t m, k, in_stride4, out_stride4, units;
    float normalise;
};
static_assert(sizeof(HadamardPush) == 24, "hadamard_rows.comp declares the same block");

struct RotatePush {
    std::uint32_t m, k4, b4, in_stride4, out_stride4;
};
static_assert(sizeof(RotatePush) == 20, "rotate_rows.comp declares the same block");

struct GemmPush {
    std::uint32_t m, k8, n4, x_stride4, n_stride4, out_stride4, factor_stride4, residual_stride4,
        gate_offset4, high_plane4;
};
static_assert(sizeof(GemmPush) == 40, "gemm_quantized.comp declares the same block");

/// Whether sums of 16 products fit the halves of a word: gemm_quantized_pairs.comp.
bool fits_pairs(int weight_bits, int activation_bits) {
    return weight_bits == 4 || (weight_bits == 6 && activation_bits <= 6);
}

ShaderId pairs_shader(int bits, bool texels) {
    if (bits == 4) {
        return texels ? ShaderId::gemm_quantized_pairs_w4_texels
                      : ShaderId::gemm_quantized_pairs_w4;
    }
    return texels ? ShaderId::gemm_quantized_pairs_w6_texels : ShaderId::gemm_quantized_pairs_w6;
}

ShaderId gemm_shader(int bits, bool dot, bool texels) {
    switch (bits) {
        case 4:  // not through texels: where they are faster, pairs are, too
            return dot ? ShaderId::gemm_quantized_w4_dot : ShaderId::gemm_quantized_w4_portable;
        case 6:
            if (texels) {
                return dot ? ShaderId::gemm_quantized_w6_dot_texels
                           : ShaderId::gemm_quantized_w6_portable_texels;
            }
            return dot ? ShaderId::gemm_quantized_w6_dot : ShaderId::gemm_quantized_w6_portable;
        case 8:
            if (texels) {
                return dot ? ShaderId::gemm_quantized_w8_dot_texels
                           : ShaderId::gemm_quantized_w8_portable_texels;
            }
            return dot ? ShaderId::gemm_quantized_w8_dot : ShaderId::gemm_quantized_w8_portable;
        default:
            throw Error(ErrorCode::unsupported, "weights must have 4, 6 or 8 bits");
    }
}

ShaderId matrix_gemm_shader(int bits, const MatrixTile& tile) {
    const bool large = tile.tiles == 4;
    return bits == 4   ? (large ? ShaderId::gemm_matrix_w4_4 : ShaderId::gemm_matrix_w4_2)
           : bits == 6 ? (large ? ShaderId::gemm_matrix_w6_4 : ShaderId::gemm_matrix_w6_2)
                       : (large ? ShaderId::gemm_matrix_w8_4 : ShaderId::gemm_matrix_w8_2);
}

/// How the kernels without matrix units share a product out.
struct ProductShape {
    MatmulShape tile;
    std::uint32_t fours = 1;  ///< of neighbouring columns that an invocation computes
    bool pairs = false;       ///< gemm_quantized_pairs.comp
};

/// The most fours that leave no more than an eighth of the invocations' columns unused.
std::uint32_t fours_for(std::uint32_t n4, std::uint32_t lanes, std::uint32_t most) {
    for (std::uint32_t fours = most; fours > 1; --fours) {
        const std::uint32_t computed = ceil_div(n4, lanes * fours) * lanes * fours;
        if (computed - n4 <= n4 / 8) return fours;
    }
    return 1;
}

ProductShape product_shape(const program::Limits& limits, int rows, std::uint32_t n4,
                           int weight_bits, int activation_bits) {
    ProductShape shape{matmul_shape(limits, rows)};
    // The tile that was measured to be fastest, where there are rows enough for it.
    if (limits.product_rows && limits.product_lanes <= limits.max_invocations &&
        rows >= static_cast<int>(limits.product_rows)) {
        if (limits.product_lanes) shape.tile.lanes = limits.product_lanes;
        shape.tile.rows = limits.product_rows;
    }
    if (!limits.runs_on_cpu) return shape;
    // llvmpipe, W4A8 256x1536x1536 and 256x5120x5120: one four by 16 rows 18.8 and 207 ms, two
    // 16.1 and 189. In pairs, fours by rows, 2 x 16: 13.4 and 140, 4 x 8: 11.7 and 138, 4 x 16:
    // 12.0 and 121, which takes twice as long to compile.
    shape.pairs = fits_pairs(weight_bits, activation_bits);
    if (shape.pairs) shape.tile.rows = std::min(shape.tile.rows, 8u);
    shape.fours = fours_for(n4, shape.tile.lanes, shape.pairs ? 4 : 2);
    return shape;
}

/// Rows first .. first+count-1 of `input`, scaled and multiplied by learned matrices, into the
/// first rows of `out`.
void rotate_chunk(Program& program, const std::string& name, const Matrix& input, int first,
                  int count, const InputTransform& transform, const Matrix& out) {
    const int b = transform.rotation_block;
    if (b % 4 != 0 || input.columns % b != 0) {
        throw Error(ErrorCode::invalid_argument,
                    "a learned rotation needs blocks of a multiple of 4 that divide the columns");
    }
    const MatmulShape shape = matmul_shape(program.limits(), count);
    const auto k4 = static_cast<std::uint32_t>(input.columns / 4);
    const auto rows = read_rows(input, first, count);
    const Loads load = loads(program, {rows}, {transform.multiplier, transform.rotation});
    program.dispatch(
        name + ".rotate", load.texels ? ShaderId::rotate_rows_texels : ShaderId::rotate_rows,
        {shape.lanes, shape.rows, transform.multiplier.valid()},
        {load(rows), load.optional(transform.multiplier, input.tensor),
         load(program::read(transform.rotation)), write_rows(out, 0, count)},
        RotatePush{static_cast<std::uint32_t>(count), k4, static_cast<std::uint32_t>(b / 4),
                   static_cast<std::uint32_t>(input.stride / 4),
                   static_cast<std::uint32_t>(out.stride / 4)},
        {ceil_div(k4, shape.lanes), ceil_div(static_cast<std::uint64_t>(count), shape.rows), 1},
        2.0 * count * input.columns * b);
}

/// Columns an invocation holds in registers. 128 take 168 VGPRs on navi21 and spill 56 on gfx1100.
int widest_hadamard(const Program& program) {
    return program.limits().runs_on_cpu ? 128 : 64;
}
constexpr int kWidestBlock = 1024;

std::uint32_t hadamard_lanes(const Program& program) {
    return program.limits().runs_on_cpu ? kPrivateLanes : 64;
}

/// Points, of four columns, of the narrowest of the passes that hadamard_chunk makes.
std::uint64_t narrowest_pass(const Program& program, int block) {
    const int inside = std::min(block, widest_hadamard(program));
    const int points = std::max(1, inside / 4);
    return static_cast<std::uint64_t>(block == inside ? points : std::min(points, block / inside));
}

/// One pass of butterflies over points that are `stride` vec4 apart; rows as in rotate_chunk.
void hadamard_pass(Program& program, const std::string& name, const Matrix& input, int first,
                   int count, int points, int stride, Tensor multiplier, const Matrix& out,
                   int block) {
    const bool first_pass = stride == 1;
    const std::uint32_t lanes = hadamard_lanes(program);
    const std::uint32_t units =
        ceil_div(static_cast<std::uint64_t>(input.columns), static_cast<std::uint64_t>(4 * points));
    const auto rows = read_rows(input, first, count);
    const Loads load = loads(program, {rows}, {multiplier});
    program.dispatch(
        name + ".hadamard", load.texels ? ShaderId::hadamard_rows_texels : ShaderId::hadamard_rows,
        {lanes, static_cast<std::uint32_t>(points), static_cast<std::uint32_t>(stride),
         first_pass ? static_cast<std::uint32_t>(
                          std::countr_zero(static_cast<unsigned>(std::min(block, 4))))
                    : 0,
         multiplier.valid()},
        {load(rows), load.optional(multiplier, input.tensor), write_rows(out, 0, count)},
        HadamardPush{static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(input.columns),
                     static_cast<std::uint32_t>(input.stride / 4),
                     static_cast<std::uint32_t>(out.stride / 4), units,
                     first_pass ? 1.0f / std::sqrt(static_cast<float>(block)) : 1.0f},
        {ceil_div(static_cast<std::uint64_t>(count) * units, lanes), 1, 1},
        4.0 * count * input.columns * std::countr_zero(static_cast<unsigned>(4 * points)));
}

/// The same for the Hadamard rotation. Returns the matrix that holds the result.
Matrix hadamard_chunk(Program& program, const std::string& name, const Matrix& input, int first,
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
        {lanes, multiplier.valid(), clip.valid()},
        {load(rows), load.optional(multiplier, from.tensor),
         write(out.words, f * word_bytes, c * word_bytes), write(out.scales, f * 4, c * 4),
         write(out.row_sums, f * 4, c * 4),
         clip.valid() ? program::read(clip) : program::unused(from.tensor)},
        QuantizePush{static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(from.columns),
                     static_cast<std::uint32_t>(from.stride),
                     static_cast<std::uint32_t>(word_bytes / 4),
                     static_cast<float>((1 << (bits - 1)) - 1)},
        {load.texels ? ceil_div(c, lanes) : static_cast<std::uint32_t>(count), 1, 1},
        20.0 * count * from.columns);
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
    const int k_words = round_up(input.columns, kKAlignment) / 4;
    QuantizedRows out{input.rows, input.columns, bits, {}, {}, {}};
    const std::uint64_t rows = static_cast<std::uint64_t>(input.rows);
    out.words = program.add(name + ".codes", rows * static_cast<std::uint64_t>(k_words) * 4);
    out.scales = program.add(name + ".scales", rows * 4);
    out.row_sums = program.add(name + ".row_sums", rows * 4);

    int chunk =
        std::min({rows_per_dispatch(
                      program, std::max(input.row_bytes(), static_cast<std::uint64_t>(k_words) * 4),
                      input.rows),
                  65536 - 64});
    if (transform.rotation_block > 1 && !transform.rotation.valid()) {
        // A pass over few points has many invocations a row, and a dispatch 65,535 groups.
        const std::uint64_t fewest = narrowest_pass(program, transform.rotation_block);
        const std::uint64_t a_row = ceil_div(static_cast<std::uint64_t>(input.columns), 4 * fewest);
        const std::uint64_t most = 65535 * hadamard_lanes(program) / a_row / 64 * 64;
        chunk = static_cast<int>(
            std::clamp<std::uint64_t>(most, 64, static_cast<std::uint64_t>(chunk)));
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
            rotate_chunk(program, name, input, first, count, transform, rotated);
            quantize_chunk(program, name, read_rows(rotated, 0, count), rotated, {}, transform.clip,
                           bits, first, count, out);
        } else {
            const Matrix result =
                hadamard_chunk(program, name, input, first, count, transform, rotated);
            quantize_chunk(program, name, read_rows(result, 0, count), result, {}, transform.clip,
                           bits, first, count, out);
        }
    }
    return out;
}

void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const Matrix& out, const Epilogue& epilogue,
            bool accumulators) {
    using program::read;
    using program::unused;
    const int k_padded = round_up(a.k, kKAlignment);
    const std::uint64_t word_bytes = static_cast<std::uint64_t>(k_padded);
    const std::uint64_t widest =
        std::max({word_bytes, out.row_bytes(), epilogue.factor ? epilogue.factor->row_bytes() : 0,
                  epilogue.residual ? epilogue.residual->row_bytes() : 0});
    const int chunk = rows_per_dispatch(program, widest, a.rows);
    const std::uint32_t n4 = ceil_div(static_cast<std::uint64_t>(weight.n), 4);
    const ProductShape shape = product_shape(program.limits(), a.rows, n4, weight.bits, a.bits);
    const std::vector<std::uint32_t> constants = {shape.tile.lanes,
                                                  shape.tile.rows,
                                                  accumulators,
                                                  shape.fours,
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
        Loads load = loads(program, {input, codes});
        load.texels = load.texels && (shape.pairs || weight.bits != 4);
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
        const program::Limits& limits = program.limits();
        const bool units = limits.arithmetic == Arithmetic::matrix && rows >= kFewestMatrixRows;
        const bool dot = limits.arithmetic == Arithmetic::dot ||
                         (limits.arithmetic == Arithmetic::matrix && limits.has_dot);
        const MatrixTile tile =
            units ? matrix_tile(limits, limits.matrix_int8, false, rows, weight.n) : MatrixTile{};
        program.dispatch(
            name,
            units         ? matrix_gemm_shader(weight.bits, tile)
            : shape.pairs ? pairs_shader(weight.bits, load.texels)
                          : gemm_shader(weight.bits, dot, load.texels),
            units ? matrix_constants(constants, limits, limits.matrix_int8, tile) : constants,
            {load(input), load(codes), write_rows(out, first, rows),
             weight.bias.valid() ? read(weight.bias) : unused(out.tensor),
             epilogue.factor ? read_rows(*epilogue.factor, first, rows) : unused(out.tensor),
             epilogue.residual ? read_rows(*epilogue.residual, first, rows) : unused(out.tensor),
             epilogue.gate.valid() ? read(epilogue.gate) : unused(out.tensor),
             read(a.scales, f * 4, c * 4), read(a.row_sums, f * 4, c * 4), read(weight.scale)},
            push,
            {ceil_div(
                 n4, units ? tile.columns(limits.matrix_int8) / 4 : shape.tile.lanes * shape.fours),
             ceil_div(c, units ? tile.rows(limits.matrix_int8) : shape.tile.rows), 1},
            2.0 * rows * weight.n * weight.k);
    }
}

}  // namespace quantsparse::kernels
