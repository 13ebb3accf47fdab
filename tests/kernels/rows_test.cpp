// Row normalisation and the split into heads against plain loops.
#include "kernels/rows.hpp"

#include <fmt/format.h>
#include <cmath>

#include "quantsparse/error.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

class RowsTest : public DeviceTest {};

constexpr int kShift = 4, kScale = 144;  // offsets inside the modulation buffer
constexpr int kModulationFloats = 288;

TEST_F(RowsTest, LayerAndRmsNorm) {
    for (const auto& [rows, columns] : std::initializer_list<std::array<int, 2>>{
             {1, 1}, {3, 3}, {13, 37}, {37, 65}, {65, 130}, {130, 13}}) {
        for (unsigned mask = 0; mask < 16; ++mask) {
            const bool rms = mask & 1, has_weight = mask & 2, has_bias = mask & 4,
                       has_modulation = mask & 8;
            const std::string what =
                fmt::format("{}x{} {} weight {} bias {} modulation {}", rows, columns,
                            rms ? "rms" : "layer", has_weight, has_bias, has_modulation);
            Program program(limits());
            const Matrix in = add_kept_matrix(program, "in", rows, columns);
            const Matrix out = add_kept_matrix(program, "out", rows, columns);
            const auto vector = [&](const char* name, int count) {
                return program.add(name, static_cast<std::uint64_t>(count) * 4,
                                   Lifetime::persistent);
            };
            kernels::Norm norm;
            norm.kind = rms ? kernels::Norm::Kind::rms : kernels::Norm::Kind::layer;
            norm.eps = 1e-3f;
            if (has_weight) norm.weight = vector("weight", columns);
            if (has_bias) norm.bias = vector("bias", columns);
            if (has_modulation) {
                norm.modulation = vector("modulation", kModulationFloats);
                norm.shift_offset = kShift;
                norm.scale_offset = kScale;
            }
            kernels::normalize_rows(program, "norm", in, out, norm);
            Executor executor = executor_for(program);
            auto x = random(rows, columns);
            for (float& value : x)
                value += 3.0f;  // a mean that a one-pass variance would suffer from
            const auto weight = random(1, columns), bias = random(1, columns);
            const auto modulation = random(1, kModulationFloats);
            write_matrix(executor, in, x);
            write_matrix(executor, out, std::vector<float>(x.size(), 7.0f));
            if (has_weight) write_tensor(executor, norm.weight, weight);
            if (has_bias) write_tensor(executor, norm.bias, bias);
            if (has_modulation) write_tensor(executor, norm.modulation, modulation);
            executor.run(0);
            std::vector<double> expected;
            for (int r = 0; r < rows; ++r) {
                double mean = 0, squares = 0;
                for (int c = 0; c < columns; ++c) mean += x[at(r, c, columns)];
                mean = rms ? 0 : mean / columns;
                for (int c = 0; c < columns; ++c)
                    squares += std::pow(x[at(r, c, columns)] - mean, 2);
                const double inverse = 1 / std::sqrt(squares / columns + 1e-3);
                for (int c = 0; c < columns; ++c) {
                    const std::size_t i = static_cast<std::size_t>(c);
                    double y = (x[at(r, c, columns)] - mean) * inverse;
                    if (has_weight) y *= weight[i];
                    if (has_bias) y += bias[i];
                    if (has_modulation)
                        y = y * (1.0 + modulation[kScale + i]) + modulation[kShift + i];
                    expected.push_back(y);
                }
            }
            expect_close(read_matrix<float>(executor, out), expected, 2e-5, what);
            EXPECT_TRUE(padding_is_zero(executor, out)) << what;
        }
    }
}

struct Split {
    int heads, head_dim;
    std::array<int, 3> grid;  ///< frames, rows, columns
    bool norm, rope;
};

TEST_F(RowsTest, SplitHeadsWithNormAndRope) {
    for (const Split& s : {Split{1, 4, {1, 1, 1}, false, false},
                           {3, 5, {1, 1, 13}, true, false},
                           {3, 20, {2, 3, 5}, true, true},
                           {12, 12, {3, 4, 3}, false, true},
                           {2, 64, {1, 5, 13}, true, true},
                           {5, 18, {5, 2, 13}, true, true},
                           {2, 128, {3, 1, 1}, true, true}}) {
        const int tokens = s.grid[0] * s.grid[1] * s.grid[2], columns = s.heads * s.head_dim;
        const std::string what = fmt::format("{} heads of {}, {} tokens, norm {} rope {}", s.heads,
                                             s.head_dim, tokens, s.norm, s.rope);
        const int pairs = s.head_dim / 2, row_pairs = s.head_dim / 6;
        const int time_pairs = pairs - 2 * row_pairs;
        const int positions = std::max({s.grid[0], s.grid[1], s.grid[2]});
        Program program(limits());
        const Matrix in = add_kept_matrix(program, "in", tokens, columns);
        const auto out = kernels::add_head_matrix(program, "out", s.heads, tokens, s.head_dim,
                                                  Lifetime::persistent);
        kernels::HeadTransform transform;
        if (s.norm) {
            transform.norm_weight = program.add("weight", static_cast<std::uint64_t>(columns) * 4,
                                                Lifetime::persistent);
        }
        if (s.rope) {
            transform.rope_table = program.add(
                "table", static_cast<std::uint64_t>(positions * pairs) * 8, Lifetime::persistent);
        }
        transform.grid = {s.grid[1], s.grid[2]};
        transform.pairs = {time_pairs, row_pairs};
        kernels::split_heads(program, "split", in, out, transform);
        Executor executor = executor_for(program);
        const auto x = random(tokens, columns), weight = random(1, columns);
        const auto table = random(positions, 2 * pairs);  // any numbers tell the entries apart
        write_matrix(executor, in, x);
        if (s.norm) write_tensor(executor, transform.norm_weight, weight);
        if (s.rope) write_tensor(executor, transform.rope_table, table);
        executor.run(0);
        const auto padded = executor.read_values<float>(
            out.tensor, out.head_bytes() / 4 * static_cast<std::size_t>(s.heads));
        std::vector<float> actual;
        std::vector<double> expected;
        for (int t = 0; t < tokens; ++t) {
            double squares = 0;
            for (int c = 0; c < columns; ++c) squares += std::pow(x[at(t, c, columns)], 2);
            const double inverse = s.norm ? 1 / std::sqrt(squares / columns + 1e-6) : 1;
            const int position[3] = {t / (s.grid[1] * s.grid[2]), t / s.grid[2] % s.grid[1],
                                     t % s.grid[2]};
            for (int h = 0; h < s.heads; ++h) {
                const auto value = [&](int c) {
                    const std::size_t column = at(h, c, s.head_dim);
                    return x[at(t, 0, columns) + column] * inverse *
                           (s.norm ? static_cast<double>(weight[column]) : 1.0);
                };
                for (int c = 0; c < out.padded_dim; ++c) {
                    actual.push_back(padded[at(h * out.token_stride + t, c, out.padded_dim)]);
                    if (c >= s.head_dim) {
                        expected.push_back(0);
                        continue;
                    }
                    const int pair = c / 2;
                    if (!s.rope || 2 * pair + 1 >= s.head_dim) {
                        expected.push_back(value(c));
                        continue;
                    }
                    const int axis = pair < time_pairs ? 0 : pair < time_pairs + row_pairs ? 1 : 2;
                    const std::size_t entry = at(position[axis], 2 * pair, 2 * pairs);
                    const double cosine = table[entry], sine = table[entry + 1];
                    const double a = value(2 * pair), b = value(2 * pair + 1);
                    expected.push_back(c % 2 ? a * sine + b * cosine : a * cosine - b * sine);
                }
            }
        }
        expect_close(actual, expected, 1e-5, what);
    }
}

TEST_F(RowsTest, OrdersOfMoreTokensThanTheShaderDividesAreRefused) {
    Program program(limits());
    const Tensor types = program.add("types", 16, program::Lifetime::persistent);
    const auto split = [&](int tokens) {
        const Matrix in = kernels::add_matrix(program, "in", tokens, 4);
        const auto out = kernels::add_head_matrix(program, "out", 1, tokens, 4);
        kernels::HeadTransform transform;
        transform.order = {types, 2, tokens / 2};
        kernels::split_heads(program, "split", in, out, transform);
    };
    EXPECT_NO_THROW(split(kernels::TokenOrder::kMostTokens));
    EXPECT_THROW(split(kernels::TokenOrder::kMostTokens + 2), Error);
}

}  // namespace
}  // namespace quantsparse::tests
