// A small binding limit cuts operations into many dispatches; the results stay the same to the bit.
#include <fmt/format.h>

#include "format/bit_packing.hpp"
#include "format/safetensors.hpp"
#include "kernels/attention.hpp"
#include "quantsparse/error.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

constexpr std::uint64_t kUnlimited = 0;

class ChunkingTest : public DeviceTest {
  protected:
    static program::Limits limits_with(std::uint64_t binding_bytes) {
        program::Limits result = limits();
        if (binding_bytes) result.max_binding_bytes = binding_bytes;
        return result;
    }
    static std::size_t dispatches(const Program& program) { return program.operations().size(); }
};

TEST_F(ChunkingTest, FloatMatmulAndNorm) {
    const int m = 300, n = 130, k = 37;
    const auto x = random(m, k), w = random(n, k), bias = random(1, n), residual = random(m, n);
    std::vector<float> whole_product, whole_norm;
    std::size_t whole = 0;
    for (const std::uint64_t limit :
         {kUnlimited, std::uint64_t{128} << 10, std::uint64_t{64} << 10, std::uint64_t{36} << 10}) {
        Program program(limits_with(limit));
        const Matrix a = add_kept_matrix(program, "a", m, k),
                     out = add_kept_matrix(program, "o", m, n),
                     added = add_kept_matrix(program, "r", m, n),
                     normed = add_kept_matrix(program, "n", m, n);
        const auto weight = kernels::add_float_weight(program, "w", n, k, false, true);
        kernels::Epilogue epilogue;
        epilogue.residual = &added;
        kernels::matmul(program, "product", a, weight, out, epilogue);
        kernels::normalize_rows(program, "norm", out, normed, {});
        Executor executor = executor_for(program);
        write_matrix(executor, a, x);
        write_matrix(executor, added, residual);
        write_weight(executor, weight, w, bias);
        executor.run(0);
        const auto product = read_matrix<float>(executor, out);
        const auto norm = read_matrix<float>(executor, normed);
        if (limit == kUnlimited) {
            whole_product = product;
            whole_norm = norm;
            whole = dispatches(program);
            continue;
        }
        EXPECT_GT(dispatches(program), whole) << limit;
        EXPECT_EQ(product, whole_product) << limit;
        EXPECT_EQ(norm, whole_norm) << limit;
    }
}

TEST_F(ChunkingTest, WeightPanels) {
    const int m = 3, n = 130, k = 200;
    const auto x = random(m, k), w = random(n, k), bias = random(1, n);
    for (const bool half : {false, true}) {
        std::vector<float> whole;
        for (const std::uint64_t limit :
             {kUnlimited, std::uint64_t{16} << 10, std::uint64_t{4} << 10}) {
            Program program(limits_with(limit));
            const Matrix a = add_kept_matrix(program, "a", m, k),
                         out = add_kept_matrix(program, "o", m, n);
            const auto weight = kernels::add_float_weight(program, "w", n, k, half, true);
            kernels::Epilogue epilogue;
            epilogue.activation = kernels::Activation::silu;
            kernels::matmul(program, "product", a, weight, out, epilogue);
            Executor executor = executor_for(program);
            write_matrix(executor, a, x);
            write_weight(executor, weight, w, bias);
            executor.run(0);
            const auto result = read_matrix<float>(executor, out);
            if (limit == kUnlimited) {
                whole = result;
                continue;
            }
            EXPECT_GT(weight.panels.size(), 1u) << limit;
            EXPECT_EQ(result, whole) << limit << (half ? " half" : " fp32");
        }
    }
}

TEST_F(ChunkingTest, QuantizedMatmul) {
    const int m = 300, n = 37, k = 64;
    const auto x = random(m, k), bias = random(1, n);
    std::vector<std::int8_t> codes(static_cast<std::size_t>(n * k));
    for (auto& code : codes) code = static_cast<std::int8_t>(random_int(-8, 7));
    const auto rotation = random(k, 32);
    for (const auto& [block, learned] : {std::pair{0, false}, {32, false}, {32, true}}) {
        std::vector<float> whole;
        std::size_t whole_dispatches = 0;
        for (const std::uint64_t limit :
             {kUnlimited, std::uint64_t{64} << 10, std::uint64_t{32} << 10}) {
            Program program(limits_with(limit));
            const Matrix a = add_kept_matrix(program, "a", m, k),
                         out = add_kept_matrix(program, "o", m, n);
            const auto weight = kernels::add_quantized_weight(program, "w", n, k, 4, true);
            kernels::InputTransform transform;
            transform.rotation_block = block;
            if (learned) {
                transform.rotation = program.add("rotation", static_cast<std::uint64_t>(k) * 32 * 2,
                                                 program::Lifetime::constant);
            }
            const auto rows = kernels::quantize_rows(program, "quantize", a, transform, 8);
            kernels::matmul(program, "linear", rows, weight, out);
            Executor executor = executor_for(program);
            write_matrix(executor, a, x);
            if (learned) {
                std::vector<std::uint16_t> halves;
                for (const float v : rotation) halves.push_back(format::half_from_float(v));
                executor.write_values(transform.rotation, std::span<const std::uint16_t>(halves));
            }
            const auto words = format::pack_weight_codes(codes, n, k, 4);
            executor.write_values(weight.words, std::span<const std::uint32_t>(words));
            write_tensor(executor, weight.scale,
                         std::vector<float>(static_cast<std::size_t>(n), 0.1f));
            write_tensor(executor, weight.bias, bias);
            executor.run(0);
            const auto result = read_matrix<float>(executor, out);
            if (limit == kUnlimited) {
                whole = result;
                whole_dispatches = dispatches(program);
                continue;
            }
            EXPECT_GT(dispatches(program), whole_dispatches) << limit;
            EXPECT_EQ(result, whole) << limit << " block " << block << " learned " << learned;
        }
    }
}

TEST_F(ChunkingTest, SplitHeadsAndAttention) {
    const int heads = 5, head_dim = 20, tokens = 130, columns = heads * head_dim;
    const auto x = random(tokens, columns), bias = random(heads, 2 * tokens - 1),
               weight = random(1, columns), table = random(tokens, head_dim);
    std::vector<float> whole;
    std::size_t whole_dispatches = 0;
    for (const std::uint64_t limit :
         {kUnlimited, std::uint64_t{40} << 10, std::uint64_t{28} << 10}) {
        Program program(limits_with(limit));
        const Matrix in = add_kept_matrix(program, "in", tokens, columns),
                     out = add_kept_matrix(program, "out", tokens, columns);
        const auto q = kernels::add_head_matrix(program, "q", heads, tokens, head_dim),
                   v = kernels::add_head_matrix(program, "v", heads, tokens, head_dim);
        kernels::HeadTransform transform;
        transform.norm_weight =
            program.add("w", static_cast<std::uint64_t>(columns) * 4, Lifetime::persistent);
        transform.rope_table = program.add("t", static_cast<std::uint64_t>(tokens * head_dim) * 4,
                                           Lifetime::persistent);
        transform.grid = {10, 13};
        transform.pairs = {4, 3};
        kernels::split_heads(program, "split q", in, q, transform);
        kernels::split_heads(program, "split v", in, v);
        kernels::AttentionOptions options;
        options.bias = program.add("bias", bias.size() * 4, Lifetime::persistent);
        options.bias_span = tokens;
        options.scale = 0.3f;
        kernels::attention(program, "attention", q, q, v, out, options);
        Executor executor = executor_for(program);
        write_matrix(executor, in, x);
        write_tensor(executor, transform.norm_weight, weight);
        write_tensor(executor, transform.rope_table, table);
        write_tensor(executor, options.bias, bias);
        executor.run(0);
        const auto result = read_matrix<float>(executor, out);
        if (limit == kUnlimited) {
            whole = result;
            whole_dispatches = dispatches(program);
            continue;
        }
        EXPECT_GT(dispatches(program), whole_dispatches) << limit;
        EXPECT_EQ(result, whole) << limit;
    }
}

TEST_F(ChunkingTest, WhatCannotBeCutIsRefused) {
    Program program(limits_with(4 << 10));
    const Matrix a = add_kept_matrix(program, "a", 64, 130),
                 out = add_kept_matrix(program, "o", 64, 4);
    const auto weight = kernels::add_float_weight(program, "w", 4, 130, false, false);
    try {
        kernels::matmul(program, "too wide", a, weight, out);
        FAIL() << "64 rows of 528 bytes do not fit 4 KiB";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::unsupported);
        EXPECT_NE(std::string(error.what()).find("too wide"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace quantsparse::tests
