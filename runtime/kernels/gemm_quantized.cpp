#include <algorithm>
#include <shaders/gemm_quantized.hpp>
#include <shaders/gemm_quantized_lora_push.hpp>
#include <shaders/gemm_quantized_push.hpp>

#include "kernels/copy.hpp"
#include "kernels/gemm.hpp"
#include "kernels/loads.hpp"
#include "kernels/matmul_shape.hpp"
#include "kernels/quantized_matmul.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;
using Constant = shaders::gemm_quantized::Constant;

/// Whether sums of 16 products fit the halves of a word: gemm_quantized_pairs.comp.
bool fits_pairs(int weight_bits, int activation_bits) {
    return weight_bits <= 4 || (weight_bits == 6 && activation_bits <= 6);
}

ShaderId pairs_shader(int bits, bool texels, bool lora) {
    constexpr ShaderId kShaders[3][2][2] = {
        {{ShaderId::gemm_quantized_pairs_w3, ShaderId::gemm_quantized_pairs_w3_lora},
         {ShaderId::gemm_quantized_pairs_w3_texels, ShaderId::gemm_quantized_pairs_w3_texels_lora}},
        {{ShaderId::gemm_quantized_pairs_w4, ShaderId::gemm_quantized_pairs_w4_lora},
         {ShaderId::gemm_quantized_pairs_w4_texels, ShaderId::gemm_quantized_pairs_w4_texels_lora}},
        {{ShaderId::gemm_quantized_pairs_w6, ShaderId::gemm_quantized_pairs_w6_lora},
         {ShaderId::gemm_quantized_pairs_w6_texels,
          ShaderId::gemm_quantized_pairs_w6_texels_lora}}};
    return kShaders[bits == 3 ? 0 : bits == 4 ? 1 : 2][texels][lora];
}

/// By dot, texels, LoRA.
using Variants = ShaderId[2][2][2];
// Not through texels: where they are faster, pairs are, too.
constexpr Variants kThreeBits = {
    {{ShaderId::gemm_quantized_w3_portable, ShaderId::gemm_quantized_w3_portable_lora},
     {ShaderId::gemm_quantized_w3_portable, ShaderId::gemm_quantized_w3_portable_lora}},
    {{ShaderId::gemm_quantized_w3_dot, ShaderId::gemm_quantized_w3_dot_lora},
     {ShaderId::gemm_quantized_w3_dot, ShaderId::gemm_quantized_w3_dot_lora}}};
constexpr Variants kFourBits = {
    {{ShaderId::gemm_quantized_w4_portable, ShaderId::gemm_quantized_w4_portable_lora},
     {ShaderId::gemm_quantized_w4_portable, ShaderId::gemm_quantized_w4_portable_lora}},
    {{ShaderId::gemm_quantized_w4_dot, ShaderId::gemm_quantized_w4_dot_lora},
     {ShaderId::gemm_quantized_w4_dot, ShaderId::gemm_quantized_w4_dot_lora}}};
constexpr Variants kSixBits = {
    {{ShaderId::gemm_quantized_w6_portable, ShaderId::gemm_quantized_w6_portable_lora},
     {ShaderId::gemm_quantized_w6_portable_texels,
      ShaderId::gemm_quantized_w6_portable_texels_lora}},
    {{ShaderId::gemm_quantized_w6_dot, ShaderId::gemm_quantized_w6_dot_lora},
     {ShaderId::gemm_quantized_w6_dot_texels, ShaderId::gemm_quantized_w6_dot_texels_lora}}};
constexpr Variants kEightBits = {
    {{ShaderId::gemm_quantized_w8_portable, ShaderId::gemm_quantized_w8_portable_lora},
     {ShaderId::gemm_quantized_w8_portable_texels,
      ShaderId::gemm_quantized_w8_portable_texels_lora}},
    {{ShaderId::gemm_quantized_w8_dot, ShaderId::gemm_quantized_w8_dot_lora},
     {ShaderId::gemm_quantized_w8_dot_texels, ShaderId::gemm_quantized_w8_dot_texels_lora}}};

ShaderId gemm_shader(int bits, bool dot, bool texels, bool lora) {
    switch (bits) {
        case 3:
            return kThreeBits[dot][texels][lora];
        case 4:
            return kFourBits[dot][texels][lora];
        case 6:
            return kSixBits[dot][texels][lora];
        case 8:
            return kEightBits[dot][texels][lora];
        default:
            throw Error(ErrorCode::unsupported, "weights must have 3, 4, 6 or 8 bits");
    }
}

/// The most fours that leave no more than an eighth of the invocations' columns unused.
std::uint32_t fours_for(std::uint32_t n4, std::uint32_t lanes, std::uint32_t most) {
    for (std::uint32_t fours = most; fours > 1; --fours) {
        const std::uint32_t computed = ceil_div(n4, lanes * fours) * lanes * fours;
        if (computed - n4 <= n4 / 8) return fours;
    }
    return 1;
}

/// The tile that was measured to be fastest, where there are rows enough for it.
MatmulShape tile_for(const program::Limits& limits, int rows) {
    MatmulShape shape = matmul_shape(limits, rows);
    if (limits.product_rows && limits.product_lanes <= limits.max_invocations &&
        rows >= static_cast<int>(limits.product_rows)) {
        if (limits.product_lanes) shape.lanes = limits.product_lanes;
        shape.rows = limits.product_rows;
    }
    return shape;
}

/// A kernel whose invocations compute `rows` rows by `fours` fours of columns.
GemmPass pass_of(ShaderId shader, const GemmCall& call, const MatmulShape& tile,
                 std::uint32_t fours, bool texels) {
    Specialization<Constant> constants(tile.lanes,
                                       {{Constant::rows, tile.rows},
                                        {Constant::write_accumulators, call.accumulators},
                                        {Constant::fours, fours}});
    set_epilogue(constants, call);
    return {shader, constants, tile.rows, tile.lanes * fours, texels};
}

GemmPass pass_for(const program::Limits& limits, const GemmCall& call) {
    if (const auto pass = gemm_matrix(limits, call)) return *pass;
    if (const auto pass = gemm_quantized_pairs(limits, call)) return *pass;
    return gemm_quantized(limits, call);
}

}  // namespace

// llvmpipe, W4A8 256x1536x1536 and 256x5120x5120: one four by 16 rows 18.8 and 207 ms, two 16.1 and
// 189. In pairs, fours by rows, 2 x 16: 13.4 and 140, 4 x 8: 11.7 and 138, 4 x 16: 12.0 and 121,
// which takes twice as long to compile.
std::optional<GemmPass> gemm_quantized_pairs(const program::Limits& limits, const GemmCall& call) {
    if (!limits.runs_on_cpu || !fits_pairs(call.weight_bits, call.activation_bits)) {
        return std::nullopt;
    }
    MatmulShape tile = tile_for(limits, call.all_rows);
    tile.rows = std::min(tile.rows, 8u);
    return pass_of(pairs_shader(call.weight_bits, call.texels, call.lora), call, tile,
                   fours_for(call.columns4(), tile.lanes, 4), call.texels);
}

GemmPass gemm_quantized(const program::Limits& limits, const GemmCall& call) {
    const MatmulShape tile = tile_for(limits, call.all_rows);
    const bool texels = call.texels && call.weight_bits > 4;  // where they are faster, so are pairs
    return pass_of(gemm_shader(call.weight_bits, limits.uses_dot(), texels, call.lora), call, tile,
                   limits.runs_on_cpu ? fours_for(call.columns4(), tile.lanes, 2) : 1, texels);
}

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

namespace {

using shaders::gemm_quantized_push::Push;
using LoraPush = shaders::gemm_quantized_lora_push::Push;

/// The push constants of the variants that add a low-rank product: the others', and more.
LoraPush with_lora(const Push& push, const LoraProduct& lora) {
    return {.m = push.m,
            .k8 = push.k8,
            .n4 = push.n4,
            .x_stride4 = push.x_stride4,
            .n_stride4 = push.n_stride4,
            .out_stride4 = push.out_stride4,
            .factor_stride4 = push.factor_stride4,
            .residual_stride4 = push.residual_stride4,
            .gate_offset4 = push.gate_offset4,
            .high_plane4 = push.high_plane4,
            .rank4 = u32(lora.rank / 4),
            .lora_stride4 = stride4(&lora.rows),
            .lora_first4 = u32(lora.first / 4)};
}

/// `lora`: nullptr, or what the kernel itself is to add.
void multiply(Program& program, const std::string& name, const QuantizedRows& a,
              const QuantizedWeight& weight, const LoraProduct* lora, const Matrix& out,
              const Epilogue& epilogue, bool accumulators) {
    using program::read;
    const int k_padded = round_up(a.k, kKAlignment);
    const std::uint64_t word_bytes = static_cast<std::uint64_t>(k_padded);
    const std::uint64_t widest = std::max(word_bytes, lora ? lora->rows.row_bytes() : 0);
    const int chunk = rows_per_dispatch(program, widest_row(widest, out, epilogue), a.rows);
    for (int first = 0; first < a.rows; first += chunk) {
        const int rows = std::min(chunk, a.rows - first);
        const std::uint64_t f = static_cast<std::uint64_t>(first);
        const std::uint64_t c = static_cast<std::uint64_t>(rows);
        const program::Binding input = read(a.words, f * word_bytes, c * word_bytes);
        const program::Binding codes = read(weight.words);
        // Of the LoRA; without one the operands again, which changes nothing.
        const program::Binding down = lora ? read_rows(lora->rows, first, rows) : input;
        const program::Binding up = lora ? read(lora->up.panels.front().tensor) : codes;
        const GemmCall call{.rows = rows,
                            .all_rows = a.rows,
                            .columns = weight.n,
                            .weight_bits = weight.bits,
                            .activation_bits = a.bits,
                            .texels = loads(program, {input, codes, down, up}).texels,
                            .accumulators = accumulators,
                            .bias = weight.bias.valid(),
                            .lora = lora != nullptr,
                            .epilogue = epilogue};
        const GemmPass pass = pass_for(program.limits(), call);
        const Loads load{pass.texels};
        std::vector<program::Binding> bindings = {load(input), load(codes)};
        append_epilogue(bindings, out, weight.bias, epilogue, first, rows, out.tensor);
        bindings.insert(bindings.end(), {read(a.scales, f * 4, c * 4),
                                         read(a.row_sums, f * 4, c * 4), read(weight.scale)});
        const std::uint32_t n4 = call.columns4();
        const Push push{
            .m = u32(rows),
            .k8 = u32(k_padded / 8),
            .n4 = n4,
            .x_stride4 = u32(k_padded / 16),
            .n_stride4 = n4,
            .out_stride4 = stride4(&out),
            .factor_stride4 = stride4(epilogue.factor),
            .residual_stride4 = stride4(epilogue.residual),
            .gate_offset4 = u32(epilogue.gate_offset / 4),
            .high_plane4 = u32(k_padded / (weight.bits == 3 ? 16 : 8)) * n4,
        };
        const double products = 2.0 * rows * weight.n * weight.k;
        if (!lora) {
            program.dispatch(name, pass.shader, pass.constants, bindings, push, pass.groups(call),
                             products);
            continue;
        }
        bindings.insert(bindings.end(), {load(down), load(up)});
        program.dispatch(name, pass.shader, pass.constants, bindings, with_lora(push, *lora),
                         pass.groups(call), products + 2.0 * rows * weight.n * lora->rank);
    }
}

}  // namespace

bool spread_up(const program::Limits& limits) {
    return limits.arithmetic == Arithmetic::matrix;
}

void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const Matrix& out, const Epilogue& epilogue,
            bool accumulators) {
    multiply(program, name, a, weight, nullptr, out, epilogue, accumulators);
}

void matmul(Program& program, const std::string& name, const QuantizedRows& a,
            const QuantizedWeight& weight, const LoraProduct& lora, const Matrix& out,
            const Epilogue& epilogue) {
    if (lora.rank == 0) {
        return multiply(program, name, a, weight, nullptr, out, epilogue, false);
    }
    if (!spread_up(program.limits())) {
        if (lora.up.panels.size() != 1) {
            throw Error(
                ErrorCode::unsupported,
                "a LoRA of this rank does not fit one binding of the device: put it in when "
                "the model is calibrated",
                "adapters");
        }
        return multiply(program, name, a, weight, &lora, out, epilogue, false);
    }
    // The gate multiplies both products; an activation waits for their sum.
    Epilogue plain = epilogue, added = epilogue;
    plain.activation = added.activation = Activation::none;
    added.residual = &out;
    multiply(program, name, a, weight, nullptr, out, plain, false);
    matmul(program, name + ".lora", lora.rows, lora.up, out, added);
    if (epilogue.activation != Activation::none) {
        if (epilogue.activation != Activation::gelu_tanh || epilogue.factor || epilogue.residual ||
            epilogue.gate.valid()) {
            throw Error(ErrorCode::unsupported,
                        "a LoRA with this epilogue is not made on matrix units");
        }
        apply_gelu(program, name + ".gelu", out);
    }
}

}  // namespace quantsparse::kernels
