// Dense attention against a plain loop. Rows past the last token hold NaN: other tensors' memory
// may lie there, so that no kernel may read them, not even to multiply them by zero.
#include "kernels/attention.hpp"

#include <fmt/format.h>
#include <cmath>
#include <limits>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

struct Case {
    int heads, head_dim, queries, tokens;
    int keys = 0;  ///< 0: all
    bool bias = false;
};

class AttentionTest : public DeviceTest {
  protected:
    static void write_heads(Executor& executor, const kernels::HeadMatrix& m,
                            const std::vector<float>& values) {
        std::vector<float> padded(m.head_bytes() / 4 * static_cast<std::size_t>(m.heads), 0.0f);
        for (int h = 0; h < m.heads; ++h) {
            for (int t = 0; t < m.token_stride; ++t) {
                for (int c = 0; c < m.head_dim; ++c) {
                    padded[at(h * m.token_stride + t, c, m.padded_dim)] =
                        t < m.tokens ? values[at(h * m.tokens + t, c, m.head_dim)]
                                     : std::numeric_limits<float>::quiet_NaN();
                }
            }
        }
        executor.write_values(m.tensor, std::span<const float>(padded));
    }

    void check(const Case& c, float spread = 1.0f) {
        const std::string what =
            fmt::format("{} heads of {}, {} queries, {} of {} keys{}", c.heads, c.head_dim,
                        c.queries, c.keys, c.tokens, c.bias ? ", bias" : "");
        Program program(limits());
        const auto q = kernels::add_head_matrix(program, "q", c.heads, c.queries, c.head_dim,
                                                Lifetime::persistent);
        const auto k = kernels::add_head_matrix(program, "k", c.heads, c.tokens, c.head_dim,
                                                Lifetime::persistent);
        const auto v = kernels::add_head_matrix(program, "v", c.heads, c.tokens, c.head_dim,
                                                Lifetime::persistent);
        const Matrix out = add_kept_matrix(program, "out", c.queries, c.heads * c.head_dim);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
        options.keys = c.keys;
        const int span = std::max(c.queries, c.tokens);
        const int relative = 2 * span - 1;
        if (c.bias) {
            options.bias = program.add("bias", static_cast<std::uint64_t>(c.heads * relative) * 4,
                                       Lifetime::persistent);
            options.bias_span = span;
        }
        kernels::attention(program, "attention", q, k, v, out, options);
        Executor executor = executor_for(program);
        auto q_values = random(c.heads * c.queries, c.head_dim);
        for (float& value : q_values) value *= spread;
        const auto k_values = random(c.heads * c.tokens, c.head_dim);
        const auto v_values = random(c.heads * c.tokens, c.head_dim);
        const auto bias = random(c.heads, relative);
        write_heads(executor, q, q_values);
        write_heads(executor, k, k_values);
        write_heads(executor, v, v_values);
        if (c.bias) write_tensor(executor, options.bias, bias);
        write_matrix(executor, out, std::vector<float>(at(c.queries, 0, out.columns), 7.0f));
        executor.run(0);

        std::vector<double> expected;
        const int keys = c.keys ? c.keys : c.tokens;
        for (int t = 0; t < c.queries; ++t) {
            for (int h = 0; h < c.heads; ++h) {
                std::vector<double> weight;
                double largest = -1e300, total = 0;
                for (int j = 0; j < keys; ++j) {
                    double score = 0;
                    for (int d = 0; d < c.head_dim; ++d) {
                        score +=
                            static_cast<double>(q_values[at(h * c.queries + t, d, c.head_dim)]) *
                            static_cast<double>(k_values[at(h * c.tokens + j, d, c.head_dim)]);
                    }
                    score *= options.scale;
                    if (c.bias) score += bias[at(h, j - t + span - 1, relative)];
                    weight.push_back(score);
                    largest = std::max(largest, score);
                }
                for (double& w : weight) total += w = std::exp(w - largest);
                for (int d = 0; d < c.head_dim; ++d) {
                    double y = 0;
                    for (int j = 0; j < keys; ++j) {
                        y += weight[static_cast<std::size_t>(j)] *
                             v_values[at(h * c.tokens + j, d, c.head_dim)];
                    }
                    expected.push_back(y / total);
                }
            }
        }
        expect_close(read_matrix<float>(executor, out), expected,
                     attention_tolerance(2e-6 * std::max(1.0f, spread) + 3e-6, spread), what);
        EXPECT_TRUE(padding_is_zero(executor, out)) << what;
    }
};

TEST_F(AttentionTest, HeadDimensionsAndTokenCounts) {
    for (const int head_dim : {4, 20, 64, 128}) {
        for (const int tokens : {1, 7, 33, 130}) check({3, head_dim, tokens, tokens});
    }
}

TEST_F(AttentionTest, OddHeadDimensions) {
    for (const int head_dim : {1, 6, 18, 384}) check({head_dim > 128 ? 1 : 3, head_dim, 19, 19});
}

TEST_F(AttentionTest, MoreOrFewerKeysThanQueries) {
    check({2, 64, 130, 7});
    check({2, 64, 3, 130});
    check({12, 20, 65, 33});
    check({1, 128, 1, 257});
    check({2, 20, 70, 515});  // where CPU drivers without texel buffers change kernels
}

TEST_F(AttentionTest, KeysBeyondTheLastAreMasked) {
    for (const int keys : {1, 5, 32, 33, 129}) check({2, 20, 130, 130, keys});
    check({2, 128, 33, 33, 17});
}

TEST_F(AttentionTest, RelativePositionBias) {
    for (const int tokens : {1, 7, 33, 130}) check({3, 64, tokens, tokens, 0, true});
    check({5, 4, 37, 37, 19, true});
}

TEST_F(AttentionTest, LargeScoresDoNotOverflow) {
    check({2, 64, 33, 130}, 200.0f);
}

TEST_F(AttentionTest, RandomShapes) {
    for (int i = 0; i < 8; ++i) {
        const int tokens = random_int(1, 200);
        check({random_int(1, 5), random_int(0, 1) ? 20 : 64, random_int(1, 200), tokens,
               random_int(1, tokens)});
    }
}

}  // namespace
}  // namespace quantsparse::tests
