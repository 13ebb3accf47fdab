#include "kernel_cases.hpp"

#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "attention/block_mask.hpp"
#include "attention/block_rule.hpp"
#include "attention/step_schedule.hpp"
#include "kernels/attention.hpp"
#include "kernels/block_choice.hpp"
#include "kernels/head_profile.hpp"
#include "kernels/quantized_matmul.hpp"
#include "kernels/residual.hpp"
#include "kernels/rows.hpp"

namespace quantsparse::bench {
namespace {

using kernels::Matrix;
using program::Lifetime;
using program::Program;

struct Shape {
    const char* model;
    int k, n;
};
constexpr Shape kShapes[] = {
    {"wan-1.3b", 1536, 1536}, {"wan-1.3b", 1536, 8960}, {"wan-1.3b", 8960, 1536},
    {"wan-14b", 5120, 5120},  {"wan-14b", 5120, 13824}, {"wan-14b", 13824, 5120},
    {"hunyuan", 3072, 3072},  {"hunyuan", 3072, 12288}, {"hunyuan", 12288, 3072},
};

KernelCase quantized_gemm(const Shape& shape, int tokens, int weight_bits, int activation_bits) {
    KernelCase c;
    c.kind = "gemm";
    c.name = fmt::format("W{}A{} gemm {} {}x{}x{}", weight_bits, activation_bits, shape.model,
                         tokens, shape.k, shape.n);
    c.operation = "gemm";
    c.operations = 2.0 * tokens * shape.k * shape.n;
    c.bytes =
        1.0 * tokens * shape.k + shape.k / 8.0 * weight_bits * shape.n + 4.0 * tokens * shape.n;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, shape.k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, shape.n, Lifetime::persistent);
        const auto weight =
            kernels::add_quantized_weight(program, "weight", shape.n, shape.k, weight_bits, true);
        const auto rows = kernels::quantize_rows(program, "quantize", x, {}, activation_bits);
        kernels::matmul(program, "gemm", rows, weight, y);
    };
    return c;
}

KernelCase float_gemm(const Shape& shape, int tokens, bool half) {
    KernelCase c;
    c.kind = "gemm";
    c.name = fmt::format("{} gemm {} {}x{}x{}", half ? "half" : "fp32", shape.model, tokens,
                         shape.k, shape.n);
    c.operation = "gemm";
    c.operations = 2.0 * tokens * shape.k * shape.n;
    c.bytes = 4.0 * tokens * (shape.k + shape.n) + 4.0 * shape.k * shape.n;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, shape.k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, shape.n, Lifetime::persistent);
        const auto weight =
            kernels::add_float_weight(program, "weight", shape.n, shape.k, half, true);
        kernels::matmul(program, "gemm", x, weight, y);
    };
    return c;
}

KernelCase quantize(int tokens, int k, int rotation_block) {
    KernelCase c;
    c.kind = "quantize";
    c.name = fmt::format("quantize rows {}x{}{}", tokens, k,
                         rotation_block ? fmt::format(", Hadamard {}", rotation_block) : "");
    c.operation = "quantize";
    c.bytes = 5.0 * tokens * k;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, k, Lifetime::persistent);
        kernels::InputTransform transform;
        transform.rotation_block = rotation_block;
        kernels::quantize_rows(program, "quantize", x, transform, 8);
    };
    return c;
}

KernelCase normalize(int tokens, int k) {
    KernelCase c;
    c.kind = "norm";
    c.name = fmt::format("layer norm {}x{}", tokens, k);
    c.operation = "norm";
    c.bytes = 8.0 * tokens * k;
    c.build = [=](Program& program) {
        const Matrix x = kernels::add_matrix(program, "x", tokens, k, Lifetime::persistent);
        const Matrix y = kernels::add_matrix(program, "y", tokens, k, Lifetime::persistent);
        kernels::normalize_rows(program, "norm", x, y, {});
    };
    return c;
}

/// SSAR's correction as a pass of its own: the residual in 8 bits and the difference by factors.
KernelCase add_low_rank(int tokens, int heads, int head_dim, int rank) {
    const int columns = heads * head_dim;
    KernelCase c;
    c.kind = "residual";
    c.name = fmt::format("low-rank add {}x{}, rank {}", tokens, columns, rank);
    c.operation = "add";
    c.operations = 2.0 * tokens * columns * rank;
    c.bytes = tokens * (9.0 * columns + 4.0 * rank) + 4.0 * columns * rank;
    const auto residual = std::make_shared<kernels::Residual>();
    c.prepare = [=](program::Executor& executor) {
        // Every head has the two references that a difference needs.
        const std::vector<std::uint32_t> state(4 * static_cast<std::size_t>(heads), 2);
        attention::Correction correction;
        correction.coefficients[2] = {1, 0, 0, 1};
        executor.write_values(residual->state, std::span<const std::uint32_t>(state));
        executor.write(residual->control,
                       std::as_bytes(std::span<const attention::Correction>(&correction, 1)));
    };
    c.build = [=](Program& program) {
        kernels::Residual& r = *residual;
        r = {};
        r.storage = ResidualStorage::int8;
        r.tokens = tokens;
        r.heads = heads;
        r.head_dim = head_dim;
        r.difference4 = rank / 4;
        r.rows = program.add("rows", r.row_bytes() * static_cast<std::uint64_t>(tokens),
                             Lifetime::persistent);
        r.u = kernels::add_matrix(program, "u", tokens, rank, Lifetime::persistent);
        r.v = kernels::add_matrix(program, "v", columns, rank, Lifetime::persistent);
        r.state =
            program.add("state", static_cast<std::uint64_t>(heads) * 16, Lifetime::persistent);
        r.control = program.add("control", sizeof(attention::Correction), Lifetime::persistent);
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, columns, Lifetime::persistent);
        kernels::add_residual(program, "add", out, r);
    };
    return c;
}

const char* prefix(AttentionProducts products) {
    return products == AttentionProducts::int8      ? "int8 "
           : products == AttentionProducts::int8_qk ? "int8-qk "
                                                    : "";
}

/// The same case on codes of eight bits, beside it; `make` makes one.
template <typename Make>
void add_in_codes(KernelCase& c, Make&& make) {
    for (const AttentionProducts products : {AttentionProducts::int8_qk, AttentionProducts::int8}) {
        c.in_codes.push_back(std::make_shared<KernelCase>(make(products)));
    }
}

KernelCase dense_attention(int tokens, int heads, int head_dim, AttentionProducts products) {
    KernelCase c;
    c.kind = "attention";
    c.name = fmt::format("{}attention {} heads x {}, {} tokens", prefix(products), heads, head_dim,
                         tokens);
    c.operations = 4.0 * tokens * tokens * heads * head_dim;
    c.bytes = 16.0 * tokens * heads * head_dim;
    c.build = [=](Program& program) {
        const auto add = [&](const char* name) {
            return kernels::add_head_matrix(program, name, heads, tokens, head_dim,
                                            Lifetime::persistent);
        };
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, heads * head_dim, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        options.products = products;
        const auto q = add("q"), k = add("k"), v = add("v");
        kernels::attention(program, "attention", q, k, v, out, options);
    };
    if (products == AttentionProducts::full) {
        add_in_codes(c, [&](AttentionProducts other) {
            return dense_attention(tokens, heads, head_dim, other);
        });
    }
    return c;
}

/// The band of a density with the first frame's keys.
attention::BlockMask band_mask(int tokens, int sink, double density, int block) {
    return attention::make_block_mask(
        attention::band_sight(tokens, attention::band_width(tokens, sink, density, MaskMode::exact),
                              sink),
        block);
}

/// All of what sparse attention costs, or of what it replaces: the split of q, k and v into heads
/// (in each head's order), the choice of the heads' types, and attention.
KernelCase attention_path(int tokens, int heads, int head_dim, double density, int block,
                          AttentionProducts products) {
    constexpr int kFrames = 8;
    const int places = tokens / kFrames;
    tokens = kFrames * places;
    const auto name = [&](const std::string& what) {
        return fmt::format("{}{} attention path {} heads x {}, {} tokens", prefix(products), what,
                           heads, head_dim, tokens);
    };
    const bool sparse = density < 1;
    KernelCase c;
    c.kind = "sparse";
    c.name = name(sparse ? fmt::format("{:.0f} %", 100 * density) : "dense");
    c.operations = 4.0 * tokens * tokens * heads * head_dim;
    c.bytes = 40.0 * tokens * heads * head_dim;
    const auto mask = std::make_shared<attention::BlockMask>();
    const auto list = std::make_shared<kernels::BlockList>();
    const auto types = std::make_shared<program::Tensor>();
    if (sparse) {
        *mask = band_mask(tokens, places, density, block);
        if (products == AttentionProducts::full) {
            c.dense = std::make_shared<KernelCase>(
                attention_path(tokens, heads, head_dim, 1, block, products));
        }
        c.block_density = mask->block_density;
        c.operations *= mask->block_density;
        c.prepare = [=](program::Executor& executor) {
            std::vector<std::uint32_t> values(executor.program().bytes_of(*types) / 4);
            for (std::size_t h = 0; h < values.size(); ++h) values[h] = h % 2;
            executor.write_values(*types, std::span<const std::uint32_t>(values));
            attention::write_block_list(executor, *list, *mask);
        };
    }
    if (sparse && products == AttentionProducts::full) {
        add_in_codes(c, [&](AttentionProducts other) {
            return attention_path(tokens, heads, head_dim, density, block, other);
        });
    }
    c.build = [=](Program& program) {
        std::vector<Matrix> rows;
        for (const char* matrix : {"q", "k", "v"}) {
            rows.push_back(kernels::add_matrix(program, matrix, tokens, heads * head_dim,
                                               Lifetime::persistent));
        }
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, heads * head_dim, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        options.products = products;
        std::vector<kernels::HeadMatrix> operands;
        for (const char* matrix : {"q_heads", "k_heads", "v_heads"}) {
            operands.push_back(kernels::add_head_matrix(program, matrix, heads, tokens, head_dim));
        }
        const auto split = [&](const kernels::TokenOrder& order, bool only_temporal) {
            for (std::size_t i = 0; i < rows.size(); ++i) {
                kernels::HeadTransform transform;
                transform.order = order;
                transform.only_temporal = only_temporal;
                kernels::split_heads(program, "split", rows[i], operands[i], transform);
            }
        };
        if (sparse) {
            *types =
                program.add("types", static_cast<std::uint64_t>(heads) * 4, Lifetime::persistent);
            *list = attention::declare_block_list(program, "list", *mask);
            const program::Tensor decided =
                program.add("decided", static_cast<std::uint64_t>(heads) * 4);
            split({}, false);
            kernels::profile_heads(program, "profile", operands[0], operands[1], operands[2],
                                   options.scale, *list, {decided, kFrames, places});
            options.order = {*types, kFrames, places};
            options.blocks = list.get();
        }
        split(options.order, sparse);
        kernels::attention(program, "attention", operands[0], operands[1], operands[2], out,
                           options);
    };
    return c;
}

/// All of what attention costs under lists that the device makes for each head.
KernelCase chosen_path(int tokens, int heads, int head_dim, double density, int block) {
    tokens = tokens / 8 * 8;  // as those of the path that it is measured beside
    const kernels::BlockRule rule =
        attention::make_block_rule({tokens, 0, tokens, tokens / 8}, block, density, 0);
    KernelCase c;
    c.kind = "chosen";
    c.name = fmt::format("{:.0f} % chosen attention path {} heads x {}, {} tokens", 100 * density,
                         heads, head_dim, tokens);
    c.operations = 4.0 * tokens * tokens * heads * head_dim * rule.density();
    c.bytes = 28.0 * tokens * heads * head_dim;
    c.dense = std::make_shared<KernelCase>(
        attention_path(tokens, heads, head_dim, 1, block, AttentionProducts::full));
    c.block_density = rule.density();
    c.build = [=](Program& program) {
        std::vector<kernels::HeadMatrix> operands;
        for (const std::string matrix : {"q", "k", "v"}) {
            const Matrix rows = kernels::add_matrix(program, matrix, tokens, heads * head_dim,
                                                    Lifetime::persistent);
            operands.push_back(
                kernels::add_head_matrix(program, matrix + "_heads", heads, tokens, head_dim));
            kernels::split_heads(program, "split", rows, operands.back());
        }
        const Matrix out =
            kernels::add_matrix(program, "out", tokens, heads * head_dim, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        const program::Tensor choice = program.add("choice", rule.choice_bytes(heads));
        const program::Tensor sight =
            program.add("sight", kernels::sight_bytes(rule), Lifetime::persistent);
        kernels::choose_blocks(program, "choose", operands[0], operands[1], options.scale, rule,
                               choice);
        const kernels::BlockList list =
            kernels::list_blocks(program, "list", choice, heads, rule, sight);
        options.blocks = &list;
        kernels::attention(program, "attention", operands[0], operands[1], operands[2], out,
                           options);
    };
    return c;
}

/// Attention at a refresh: under the mask and over all keys in one pass.
KernelCase refresh_attention(int tokens, int heads, int head_dim, double density, int block,
                             AttentionProducts products) {
    KernelCase c;
    c.kind = "refresh";
    c.name = fmt::format("{}refresh attention {} heads x {}, {} tokens", prefix(products), heads,
                         head_dim, tokens);
    c.operations = 4.0 * tokens * tokens * heads * head_dim;
    c.bytes = 20.0 * tokens * heads * head_dim;
    const int sink = tokens / 8;
    const auto mask = std::make_shared<attention::BlockMask>(
        attention::complete_list(band_mask(tokens, sink, density, block)));
    const auto list = std::make_shared<kernels::BlockList>();
    c.prepare = [=](program::Executor& executor) {
        attention::write_block_list(executor, *list, *mask);
    };
    c.build = [=](Program& program) {
        const auto add = [&](const char* name) {
            return kernels::add_head_matrix(program, name, heads, tokens, head_dim,
                                            Lifetime::persistent);
        };
        const int behind = kernels::round_up(tokens, 64);
        const Matrix results = kernels::add_matrix(program, "results", behind + tokens,
                                                   heads * head_dim, Lifetime::persistent);
        const Matrix masked = results.slice(behind, tokens);
        *list = attention::declare_block_list(program, "list", *mask);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
        options.products = products;
        options.blocks = list.get();
        options.masked = &masked;
        const auto q = add("q"), k = add("k"), v = add("v");
        kernels::attention(program, "attention", q, k, v, results.slice(0, tokens), options);
    };
    if (products == AttentionProducts::full) {
        add_in_codes(c, [&](AttentionProducts other) {
            return refresh_attention(tokens, heads, head_dim, density, block, other);
        });
    }
    return c;
}

}  // namespace

std::vector<KernelCase> kernel_cases(const std::vector<int>& tokens, double density,
                                     const program::Limits& limits) {
    // Heads of the whole attention path: a CPU has no use for more, a GPU isn't full with fewer.
    const int path_heads = limits.runs_on_cpu ? 2 : 12;
    std::vector<KernelCase> cases;
    for (const int m : tokens) {
        const int block = kernels::default_block(limits, m);
        for (const Shape& shape : kShapes) {
            cases.push_back(quantized_gemm(shape, m, 4, 8));
        }
        cases.push_back(quantized_gemm(kShapes[0], m, 6, 6));
        cases.push_back(quantized_gemm(kShapes[0], m, 8, 8));
        cases.push_back(float_gemm(kShapes[0], m, false));
        for (const int shape : {0, 3, 4, 5}) {
            cases.push_back(float_gemm(kShapes[shape], m, true));
        }
        for (const int k : {1536, 8960}) {
            cases.push_back(quantize(m, k, 0));
            cases.push_back(quantize(m, k, 128));
        }
        cases.push_back(normalize(m, 1536));
        cases.push_back(add_low_rank(m, 12, 128, 16));
        cases.push_back(dense_attention(m, 12, 128, AttentionProducts::full));
        cases.push_back(dense_attention(m, 3, 64, AttentionProducts::full));
        cases.push_back(
            attention_path(m, path_heads, 128, density, block, AttentionProducts::full));
        cases.push_back(chosen_path(m, path_heads, 128, density, block));
        if (limits.arithmetic != Arithmetic::matrix) {  // matrix units have no such kernel
            cases.push_back(
                refresh_attention(m, path_heads, 128, density, block, AttentionProducts::full));
        }
    }
    return cases;
}

}  // namespace quantsparse::bench
