// The linear branch of sparse-linear attention against its definition in double precision.
#include "kernels/linear_attention.hpp"

#include <cmath>
#include <limits>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

using kernels::HeadMatrix;

class LinearAttentionTest : public DeviceTest {
  protected:
    struct Shape {
        int heads, tokens, head_dim;
    };

    static void write_heads(Executor& executor, const HeadMatrix& m, std::span<const float> x) {
        const float nan = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> stored(m.head_bytes() / 4 * static_cast<std::size_t>(m.heads), nan);
        for (int h = 0; h < m.heads; ++h) {
            for (int t = 0; t < m.tokens; ++t) {
                for (int c = 0; c < m.padded_dim; ++c) {
                    stored[at(h * m.token_stride + t, c, m.padded_dim)] =
                        c < m.head_dim ? x[at(h * m.tokens + t, c, m.head_dim)] : 0.0f;
                }
            }
        }
        executor.write_values(m.tensor, std::span<const float>(stored));
    }

    static std::vector<double> features(const float* x, int count) {
        std::vector<double> e;
        double sum = 0;
        for (int c = 0; c < count; ++c) sum += e.emplace_back(std::exp(static_cast<double>(x[c])));
        for (double& value : e) value /= sum;
        return e;
    }

    void compare(const Shape& s) {
        const auto [heads, tokens, d] = s;
        Program program(limits());
        const auto add = [&](const char* name) {
            return kernels::add_head_matrix(program, name, heads, tokens, d, Lifetime::persistent);
        };
        const HeadMatrix q = add("q"), k = add("k"), v = add("v");
        const auto weight = kernels::add_float_weight(program, "proj_l", d, d, false, true);
        const Matrix out = add_kept_matrix(program, "out", tokens, heads * d);
        kernels::add_linear_attention(program, "linear", q, k, v, weight, out);
        Executor executor = executor_for(program);

        const std::size_t count = at(heads * tokens, 0, d);
        auto q_values = random(count), k_values = random(count), v_values = random(count);
        for (float& value : q_values) value *= 5;
        for (float& value : k_values)
            value = value * 5 + 40;  // exp alone would not stay finite long
        const auto w = random(d, d), bias = random(1, d), before = random(tokens, heads * d);
        write_heads(executor, q, q_values);
        write_heads(executor, k, k_values);
        write_heads(executor, v, v_values);
        write_weight(executor, weight, w, bias);
        write_matrix(executor, out, before);
        executor.run(0);

        std::vector<double> expected(before.begin(), before.end());
        for (int h = 0; h < heads; ++h) {
            std::vector<double> sums(at(d, 0, d)), norm(static_cast<std::size_t>(d));
            for (int t = 0; t < tokens; ++t) {
                const auto f = features(&k_values[at(h * tokens + t, 0, d)], d);
                for (int i = 0; i < d; ++i) {
                    norm[at(0, i, d)] += f[at(0, i, d)];
                    for (int j = 0; j < d; ++j) {
                        sums[at(i, j, d)] += f[at(0, i, d)] * v_values[at(h * tokens + t, j, d)];
                    }
                }
            }
            for (int t = 0; t < tokens; ++t) {
                const auto f = features(&q_values[at(h * tokens + t, 0, d)], d);
                double divisor = 1e-5;
                std::vector<double> y(static_cast<std::size_t>(d));
                for (int i = 0; i < d; ++i) {
                    divisor += f[at(0, i, d)] * norm[at(0, i, d)];
                    for (int j = 0; j < d; ++j) {
                        y[at(0, j, d)] += f[at(0, i, d)] * sums[at(i, j, d)];
                    }
                }
                for (int c = 0; c < d; ++c) {
                    double projected = bias[at(0, c, d)];
                    for (int j = 0; j < d; ++j) {
                        projected += y[at(0, j, d)] / divisor * w[at(c, j, d)];
                    }
                    expected[at(t, h * d + c, heads * d)] += projected;
                }
            }
        }
        expect_close(read_matrix<float>(executor, out), expected, 2e-5,
                     std::to_string(heads) + " heads of " + std::to_string(d) + ", " +
                         std::to_string(tokens) + " tokens");
        EXPECT_TRUE(padding_is_zero(executor, out));
    }
};

TEST_F(LinearAttentionTest, OddSizes) {
    for (const Shape& s :
         {Shape{1, 1, 4}, {2, 100, 64}, {3, 77, 6}, {1, 5000, 16}, {2, 300, 128}}) {
        compare(s);
    }
}

TEST_F(LinearAttentionTest, WiderHeadsAreRefused) {
    Program program(limits());
    const auto q = kernels::add_head_matrix(program, "q", 1, 4, 260);
    const auto weight = kernels::add_float_weight(program, "proj_l", 260, 260, false, true);
    const Matrix out = add_kept_matrix(program, "out", 4, 260);
    EXPECT_ANY_THROW(kernels::add_linear_attention(program, "linear", q, q, q, weight, out));
}

}  // namespace
}  // namespace quantsparse::tests
