// Rank-r projection against a Jacobi singular value decomposition in double.
#include "attention/low_rank.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

using attention::LowRankFactors;
using attention::LowRankOptions;

/// Columns of X turned until they are orthogonal (one-sided Jacobi); their lengths are the singular
/// values.
std::vector<double> singular_values(std::vector<double> x, int rows, int columns) {
    const auto element = [&](int t, int c) -> double& { return x[at(t, c, columns)]; };
    for (int sweep = 0; sweep < 60; ++sweep) {
        double worst = 0;
        for (int i = 0; i < columns; ++i) {
            for (int j = i + 1; j < columns; ++j) {
                double a = 0, b = 0, c = 0;
                for (int t = 0; t < rows; ++t) {
                    a += element(t, i) * element(t, i);
                    b += element(t, j) * element(t, j);
                    c += element(t, i) * element(t, j);
                }
                if (std::abs(c) <= 1e-15 * std::sqrt(a * b) || c == 0) continue;
                worst = std::max(worst, std::abs(c) / std::sqrt(a * b));
                const double theta = (b - a) / (2 * c);
                const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::hypot(theta, 1));
                const double cosine = 1 / std::hypot(t, 1), sine = cosine * t;
                for (int row = 0; row < rows; ++row) {
                    const double u = element(row, i), v = element(row, j);
                    element(row, i) = cosine * u - sine * v;
                    element(row, j) = sine * u + cosine * v;
                }
            }
        }
        if (worst < 1e-13) break;
    }
    std::vector<double> values;
    for (int c = 0; c < columns; ++c) {
        double square = 0;
        for (int t = 0; t < rows; ++t) square += element(t, c) * element(t, c);
        values.push_back(std::sqrt(square));
    }
    std::sort(values.rbegin(), values.rend());
    return values;
}

class LowRankTest : public DeviceTest {
  protected:
    struct Factors {
        std::vector<float> u, v;  ///< [rows, rank], [columns, rank]
        int rank;
    };

    /// Projects matrices of one size one after another, each warm-started from the one before.
    std::vector<Factors> project(const std::vector<std::vector<float>>& matrices, int rows,
                                 int columns, int wanted, LowRankOptions options = {}) {
        Program program(limits_ ? *limits_ : limits());
        const Matrix x = add_kept_matrix(program, "x", rows, columns);
        const int rank = attention::usable_rank(wanted, rows, columns);
        LowRankFactors factors{add_kept_matrix(program, "u", rows, rank),
                               add_kept_matrix(program, "v", columns, rank), 0, rank};
        Tensor seed = program.add("seed", 16, Lifetime::persistent);
        options.seed = seed;
        project_low_rank(program, "project", x, factors, options);
        Executor executor = executor_for(program);
        executor.clear(factors.v.tensor);
        std::vector<Factors> results;
        for (const auto& values : matrices) {
            const std::vector<std::uint32_t> number = {
                static_cast<std::uint32_t>(results.size()) + first_seed_, 0, 0, 0};
            executor.write_values(seed, std::span<const std::uint32_t>(number));
            write_matrix(executor, x, values);
            executor.run(0);
            results.push_back({read_matrix<float>(executor, factors.u),
                               read_matrix<float>(executor, factors.v), rank});
            EXPECT_TRUE(padding_is_zero(executor, factors.u));
            EXPECT_TRUE(padding_is_zero(executor, factors.v));
        }
        return results;
    }

    static std::vector<double> product(const Factors& f, int rows, int columns) {
        std::vector<double> y;
        for (int t = 0; t < rows; ++t) {
            for (int c = 0; c < columns; ++c) {
                double sum = 0;
                for (int k = 0; k < f.rank; ++k) {
                    sum += static_cast<double>(f.u[at(t, k, f.rank)]) *
                           static_cast<double>(f.v[at(c, k, f.rank)]);
                }
                y.push_back(sum);
            }
        }
        return y;
    }

    static double distance(const std::vector<float>& x, const std::vector<double>& y) {
        double square = 0;
        for (std::size_t i = 0; i < x.size(); ++i) square += (x[i] - y[i]) * (x[i] - y[i]);
        return std::sqrt(square);
    }
    static double norm(const std::vector<float>& x) {
        return distance(x, std::vector<double>(x.size(), 0.0));
    }

    /// sum_k weight(k) a_k b_k^T with random a_k, b_k.
    std::vector<float> of_rank(int rows, int columns, int rank, double decay) {
        std::vector<float> x(at(rows, 0, columns), 0.0f);
        double weight = 1;
        for (int k = 0; k < rank; ++k, weight *= decay) {
            const auto a = random(static_cast<std::size_t>(rows));
            const auto b = random(static_cast<std::size_t>(columns));
            for (int t = 0; t < rows; ++t) {
                for (int c = 0; c < columns; ++c) {
                    x[at(t, c, columns)] += static_cast<float>(weight) *
                                            a[static_cast<std::size_t>(t)] *
                                            b[static_cast<std::size_t>(c)];
                }
            }
        }
        return x;
    }

    double optimum(const std::vector<float>& x, int rows, int columns, int rank) {
        // The narrow side first: Jacobi turns columns.
        std::vector<double> values(x.begin(), x.end());
        if (rows < columns) {
            for (int t = 0; t < rows; ++t) {
                for (int c = 0; c < columns; ++c) values[at(c, t, rows)] = x[at(t, c, columns)];
            }
            std::swap(rows, columns);
        }
        const auto sigma = singular_values(values, rows, columns);
        double square = 0;
        for (std::size_t i = static_cast<std::size_t>(rank); i < sigma.size(); ++i) {
            square += sigma[i] * sigma[i];
        }
        return std::sqrt(square);
    }

    std::optional<program::Limits> limits_;
    std::uint32_t first_seed_ = 0;
};

TEST_F(LowRankTest, RecoversAMatrixOfTheRankAskedFor) {
    for (const auto& [rows, columns, rank] :
         {std::array{130, 60, 5}, {37, 130, 8}, {600, 36, 16}, {64, 64, 32}, {41, 40, 1}}) {
        const auto x = of_rank(rows, columns, rank, 0.9);
        const auto f = project({x}, rows, columns, rank).front();
        EXPECT_LT(distance(x, product(f, rows, columns)), 1e-4 * norm(x))
            << rows << "x" << columns << " rank " << rank;
    }
}

TEST_F(LowRankTest, IsWithinOnePercentOfTheOptimum) {
    for (const auto& [rows, columns, rank] :
         {std::array{100, 60, 16}, {37, 50, 4}, {300, 45, 8}, {33, 33, 31}, {75, 97, 32}}) {
        for (const double decay : {0.8, 0.97}) {
            auto x = of_rank(rows, columns, std::min(rows, columns), decay);
            const auto f = project({x}, rows, columns, rank).front();
            const double best = optimum(x, rows, columns, rank);
            EXPECT_LE(distance(x, product(f, rows, columns)), 1.01 * best + 1e-5 * norm(x))
                << rows << "x" << columns << " rank " << rank << " decay " << decay;
        }
    }
}

TEST_F(LowRankTest, PureNoiseIsWithinTwoAndAHalfPercent) {
    // No direction stands out: the hardest case, and one where nothing is to be gained.
    const auto x = random(200, 60);
    const auto f = project({x}, 200, 60, 16).front();
    EXPECT_LE(distance(x, product(f, 200, 60)), 1.025 * optimum(x, 200, 60, 16));
}

TEST_F(LowRankTest, SecondFactorsAreOrthonormal) {
    const auto x = of_rank(211, 60, 60, 0.7);
    const auto f = project({x}, 211, 60, 16).front();
    for (int i = 0; i < f.rank; ++i) {
        for (int j = 0; j <= i; ++j) {
            double sum = 0;
            for (int c = 0; c < 60; ++c) {
                sum += static_cast<double>(f.v[at(c, i, f.rank)]) *
                       static_cast<double>(f.v[at(c, j, f.rank)]);
            }
            EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 2e-4) << i << ", " << j;
        }
    }
}

TEST_F(LowRankTest, WarmStartsDoNotChangeTheResult) {
    const int rows = 150, columns = 70, rank = 8;
    const auto first = of_rank(rows, columns, 12, 0.6);
    const auto other = of_rank(rows, columns, 9, 0.8);
    const auto results = project({first, first, other, first}, rows, columns, rank);
    const double best = optimum(first, rows, columns, rank);
    for (const int i : {0, 1, 3}) {
        EXPECT_LE(distance(first, product(results[static_cast<std::size_t>(i)], rows, columns)),
                  1.01 * best)
            << "run " << i;
    }
    EXPECT_LE(distance(other, product(results[2], rows, columns)),
              1.01 * optimum(other, rows, columns, rank));
}

TEST_F(LowRankTest, EqualRunsGiveEqualBits) {
    const auto x = random(90, 52);
    const auto a = project({x}, 90, 52, 8).front();
    const auto b = project({x}, 90, 52, 8).front();
    EXPECT_EQ(a.u, b.u);
    EXPECT_EQ(a.v, b.v);
}

TEST_F(LowRankTest, FullRankReproducesTheMatrix) {
    for (const auto& [rows, columns] : {std::array{1, 1}, {1, 20}, {20, 1}, {7, 5}, {5, 30}}) {
        const auto x = random(rows, columns);
        const auto f = project({x}, rows, columns, 32).front();
        EXPECT_LE(distance(x, product(f, rows, columns)), 2e-5 * norm(x) + 1e-12)
            << rows << "x" << columns;
    }
}

TEST_F(LowRankTest, ZeroStaysZeroAndRecovers) {
    const std::vector<float> zero(60 * 40, 0.0f);
    const auto x = of_rank(60, 40, 4, 0.9);
    const auto results = project({zero, x, zero}, 60, 40, 4);
    EXPECT_EQ(norm(results[0].v), 0.0);
    EXPECT_LT(distance(x, product(results[1], 60, 40)), 1e-4 * norm(x));
    EXPECT_EQ(norm(results[2].v), 0.0);
}

TEST_F(LowRankTest, RecoversAfterValuesThatAreNotFinite) {
    auto broken = random(60, 40);
    broken[123] = std::numeric_limits<float>::quiet_NaN();
    const auto x = of_rank(60, 40, 4, 0.9);
    const auto results = project({broken, x}, 60, 40, 4);
    EXPECT_LT(distance(x, product(results[1], 60, 40)), 1e-4 * norm(x));
}

TEST_F(LowRankTest, TinyAndHugeValuesKeepTheirAccuracy) {
    for (const float scale : {1e-12f, 1e12f}) {
        auto x = of_rank(70, 44, 6, 0.9);
        for (float& value : x) value *= scale;
        const auto f = project({x}, 70, 44, 6).front();
        EXPECT_LT(distance(x, product(f, 70, 44)), 1e-4 * norm(x)) << scale;
    }
}

TEST_F(LowRankTest, SmallBindingsAreCutIntoChunks) {
    limits_ = limits();
    limits_->max_binding_bytes = 64 << 10;
    const auto x = of_rank(1000, 61, 5, 0.9);
    const auto f = project({x}, 1000, 61, 5).front();
    EXPECT_LT(distance(x, product(f, 1000, 61)), 1e-4 * norm(x));
}

TEST_F(LowRankTest, MaskedHeadsTakeNoPart) {
    const int rows = 90, heads = 5, head_dim = 12, columns = heads * head_dim;
    const std::vector<std::uint32_t> mask = {7, 7, 1, 0, 3, 0, 1, 0};  // from word 2 on
    const auto x = random(rows, columns);
    auto counted = x;
    for (int t = 0; t < rows; ++t) {
        for (int c = 0; c < columns; ++c) {
            if (!mask[static_cast<std::size_t>(2 + c / head_dim)]) counted[at(t, c, columns)] = 0;
        }
    }
    Program program(limits());
    const Matrix matrix = add_kept_matrix(program, "x", rows, columns);
    const LowRankFactors factors{add_kept_matrix(program, "u", rows, 36),
                                 add_kept_matrix(program, "v", columns, 36), 4, 32};
    LowRankOptions options;
    options.mask = program.add("mask", 32, Lifetime::persistent);
    options.mask_offset = 2;
    options.head_dim = head_dim;
    project_low_rank(program, "project", matrix, factors, options);
    Executor executor = executor_for(program);
    executor.clear(factors.v.tensor);
    executor.write_values(options.mask, std::span<const std::uint32_t>(mask));
    write_matrix(executor, matrix, x);
    executor.run(0);
    Factors f{read_matrix<float>(executor, factors.u), read_matrix<float>(executor, factors.v), 36};
    for (int t = 0; t < rows; ++t) {
        for (int k = 0; k < 4; ++k) f.u[at(t, k, 36)] = 0;  // not this projection's columns
    }
    const auto y = product(f, rows, columns);
    for (int t = 0; t < rows; ++t) {
        for (int c = 0; c < columns; ++c) {
            if (!mask[static_cast<std::size_t>(2 + c / head_dim)]) {
                EXPECT_EQ(y[at(t, c, columns)], 0.0);
            }
        }
    }
    EXPECT_LE(distance(counted, y), 1.01 * optimum(counted, rows, columns, 32) + 1e-5);
}

}  // namespace
}  // namespace quantsparse::tests
