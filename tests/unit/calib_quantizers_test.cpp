#include "calib/quantizers.hpp"

#include <gtest/gtest.h>

#include <numeric>

#include "calib/linear_algebra.hpp"
#include "calib/rotation.hpp"
#include "calib/smoothing.hpp"
#include "format/bit_packing.hpp"
#include "sampling/scheduler.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

std::vector<float> gaussian(std::size_t count, std::uint64_t seed) {
    std::vector<float> values(count);
    sampling::fill_gaussian(seed, values);
    return values;
}

double squared_error(std::span<const float> a, std::span<const float> b) {
    double sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    }
    return sum;
}

TEST(Clipping, FindsTheGridValueWithTheLeastErrorOfEachChannel) {
    const int n = 6;
    const int k = 100;
    const auto weight = gaussian(n * k, 1);
    for (const int bits : {4, 6}) {
        const auto grid = clip_grid(bits);
        ASSERT_EQ(grid.size(), 26U);
        const auto gamma = search_clipping(weight, n, k, bits, grid);
        for (int channel = 0; channel < n; ++channel) {
            const auto row = std::span(weight).subspan(static_cast<std::size_t>(channel * k), k);
            const auto error = [&](float value) {
                return squared_error(row, fake_quantize_weight(row, 1, k, bits, {&value, 1}));
            };
            const double found = error(gamma[static_cast<std::size_t>(channel)]);
            for (const float candidate : grid) {
                EXPECT_LE(found, error(candidate) * (1 + 1e-5)) << bits << " " << candidate;
            }
        }
    }
}

TEST(Clipping, ReachesTheUniformOptimumOnLongGaussianRowsAtFourBits) {
    const int k = 4096;
    const auto weight = gaussian(k, 2);
    const auto gamma = search_clipping(weight, 1, k, 4, clip_grid(4));
    const double clipped = signal_to_noise_db(weight, fake_quantize_weight(weight, 1, k, 4, gamma));
    const double full = signal_to_noise_db(weight, fake_quantize_weight(weight, 1, k, 4, {}));
    EXPECT_GT(clipped, full + 2.0);
    EXPECT_NEAR(clipped, 19.2, 0.5);  // Max (1960): a uniform quantiser of 16 levels has 19.38 dB
    EXPECT_EQ(clip_grid(8), std::vector<float>{1.0f});
}

TEST(Clipping, AnAllZeroRowStaysZero) {
    const std::vector<float> zero(32, 0.0f);
    const auto gamma = search_clipping(zero, 1, 32, 4, clip_grid(4));
    EXPECT_EQ(fake_quantize_weight(zero, 1, 32, 4, gamma), zero);
}

TEST(BiasCorrection, TakesTheMeanErrorOutOfEveryChannel) {
    const std::vector<float> target = {1, 10, 2, 20, 3, 30};
    const std::vector<float> output = {0, 11, 2, 20, 1, 31};
    const auto shift = mean_shift(target, output, 2);
    EXPECT_FLOAT_EQ(shift[0], 1.0f);          // (1 + 0 + 2) / 3
    EXPECT_FLOAT_EQ(shift[1], -2.0f / 3.0f);  // (-1 + 0 - 1) / 3
}

TEST(BiasCorrection, GainsWhereInputsHaveAMean) {
    const int k = 256;
    const int n = 32;
    const int rows = 400;
    auto x = gaussian(static_cast<std::size_t>(rows) * k, 11);
    for (auto& value : x) {
        value = std::max(value, -0.1f);  // like the output of GELU
    }
    const auto w = gaussian(static_cast<std::size_t>(n) * k, 12);
    const auto gamma = search_clipping(w, n, k, 4, clip_grid(4));
    const auto target = multiply_transposed(x, w, rows, n, k);
    auto output = multiply_transposed(fake_quantize_rows(x, rows, k, 8),
                                      fake_quantize_weight(w, n, k, 4, gamma), rows, n, k);
    const double before = signal_to_noise_db(target, output);
    const auto shift = mean_shift(target, output, n);
    for (std::size_t i = 0; i < output.size(); ++i) {
        output[i] += shift[i % static_cast<std::size_t>(n)];
    }
    EXPECT_GT(signal_to_noise_db(target, output), before + 1.0);
}

TEST(Smoothing, ScaleHasGeometricMeanOneAndBoundedLogarithm) {
    const std::vector<float> x = {100.0f, 1.0f, 1e-9f, 3.0f};
    const std::vector<float> w = {0.1f, 0.2f, 0.3f, 0.0f};
    const auto half = channel_scale(x, w, 0.5f);
    for (const float value : half) {
        EXPECT_LE(std::fabs(std::log(value)), 3.0001f);
    }
    EXPECT_GT(half[0], half[1]);
    const std::vector<float> mild = {2.0f, 1.0f, 0.5f, 1.0f};
    const auto scale = channel_scale(mild, std::vector<float>(4, 1.0f), 0.5f);
    EXPECT_NEAR(scale[0] / scale[2], 2.0f, 1e-5f);  // (2 / 0.5)^0.5
    EXPECT_NEAR(scale[0] * scale[1] * scale[2] * scale[3], 1.0f, 1e-5f);
}

TEST(Smoothing, TransformedProductIsUnchanged) {
    const int k = 96;
    const auto x = gaussian(5 * k, 3);
    const auto w = gaussian(7 * k, 4);
    std::vector<float> scale(k);
    for (std::size_t i = 0; i < scale.size(); ++i) {
        scale[i] = 0.5f + static_cast<float>(i % 7);
    }
    const auto signs = rotation_signs(9, 27, k);
    const auto before = multiply_transposed(x, w, 5, 7, k);
    const auto after = multiply_transposed(transform_rows(x, k, scale, signs),
                                           transform_weight(w, k, scale, signs), 5, 7, k);
    EXPECT_GT(signal_to_noise_db(before, after), 100.0);
}

TEST(Smoothing, OutlierChannelsMakeItChooseAScale) {
    // Two input channels are fifty times larger, as in trained networks: without smoothing and
    // rotation they spoil every row's scale.
    const int k = 64;
    const int rows = 200;
    GroupActivations activations;
    activations.width = k;
    activations.rows = gaussian(static_cast<std::size_t>(rows) * k, 5);
    activations.absmax.assign(k, 0.0f);
    for (std::size_t i = 0; i < activations.rows.size(); ++i) {
        const std::size_t column = i % k;
        activations.rows[i] *= column == 3 || column == 40 ? 50.0f : 1.0f;
        activations.absmax[column] =
            std::max(activations.absmax[column], std::fabs(activations.rows[i]));
    }
    const std::vector<std::vector<float>> weights = {gaussian(32 * k, 6)};
    GroupProblem problem{&activations, &weights, {}, 4, 8};
    problem.activation_bits = 6;
    const auto on = choose_smoothing(problem);
    EXPECT_GE(on.alpha, 0.0f);
    EXPECT_GT(on.scale[3], 2.0f);
}

TEST(Rotation, SignsDependOnSeedBlockAndGroupOnly) {
    const auto signs = rotation_signs(1, 16, 256);
    EXPECT_EQ(signs, rotation_signs(1, 16, 256));
    EXPECT_NE(signs, rotation_signs(2, 16, 256));
    EXPECT_NE(signs, rotation_signs(1, 23, 256));
    EXPECT_NE(signs, rotation_signs(1, 17, 256));
    const float sum = std::accumulate(signs.begin(), signs.end(), 0.0f);
    EXPECT_LT(std::fabs(sum), 80.0f);  // five standard deviations of 256 fair signs
    for (const float sign : signs) {
        EXPECT_EQ(std::fabs(sign), 1.0f);
    }
}

TEST(Observation, KeepsMaximaAndSpreadRows) {
    std::vector<float> rows(10 * 3);
    std::iota(rows.begin(), rows.end(), -15.0f);
    const auto seen = observe_rows(rows, 3, 4, 2);
    EXPECT_EQ(seen.absmax, (std::vector<float>{15.0f, 14.0f, 14.0f}));
    ASSERT_EQ(seen.rows.size(), 4U * 3);
    EXPECT_EQ(seen.rows[0], -9.0f);  // row 2
    EXPECT_EQ(seen.rows[3], -3.0f);  // row 4
    EXPECT_EQ(observe_rows(rows, 3, 100, 0).rows.size(), rows.size());
}

}  // namespace
}  // namespace quantsparse::calib
