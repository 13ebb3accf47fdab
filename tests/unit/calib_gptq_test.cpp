// Rounding with error feedback, and the sums over inputs that it needs.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "calib/calibrate.hpp"
#include "calib/collect.hpp"
#include "calib/gptq.hpp"
#include "calib/hessian.hpp"
#include "calib/orthogonal.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/registry.hpp"
#include "calib/rotation.hpp"
#include "calib/smoothing.hpp"
#include "calib/tensors.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;

constexpr double kHardlyAny = 1e-9;  // of damping

std::vector<float> gaussian(std::int64_t count) {
    const auto values = at::randn({count}, at::kFloat);
    return {values.data_ptr<float>(), values.data_ptr<float>() + count};
}

/// Inputs with k channels that depend on each other and have a mean, as those of a network.
at::Tensor correlated_hessian(int k, int rows) {
    const auto mixed = at::matmul(at::randn({rows, k}, at::kFloat), at::randn({k, k}, at::kFloat)) /
                       std::sqrt(static_cast<double>(k));
    const auto x = mixed + at::randn({k}, at::kFloat);
    return at::matmul(x.t(), x);
}

/// tr(E H E^T), what the outputs differ by over all inputs.
double output_error(const std::vector<float>& weight, const format::QuantizedWeight& quantized,
                    const at::Tensor& hessian) {
    const auto k = hessian.size(0);
    const auto approximation = dequantize(quantized, static_cast<int>(k));
    auto error = at::empty({std::ssize(weight) / k, k}, at::kDouble);
    for (std::size_t i = 0; i < weight.size(); ++i) {
        error.data_ptr<double>()[i] = static_cast<double>(weight[i]) - approximation[i];
    }
    return (at::matmul(error, hessian.to(at::kDouble)) * error).sum().item<double>();
}

class GptqTest : public testing::Test {
  protected:
    void SetUp() override {
        reset_cancel();
        at::manual_seed(7);
    }
};

TEST_F(GptqTest, IndependentInputsGiveTheNearestCodes) {
    constexpr int kRows = 40, kWidth = 300;
    const auto weight = gaussian(kRows * kWidth);
    const std::vector<float> gamma(kRows, 0.8f);
    const auto hessian = at::diag(at::rand({kWidth}, at::kFloat) * 100 + 0.1);
    const auto feedback = error_feedback(hessian, 0.01, 1);
    for (const int bits : {4, 6, 8}) {
        const auto nearest = format::quantize_weight(weight, kRows, kWidth, bits, gamma);
        const auto rounded =
            quantize_with_feedback(weight, kRows, kWidth, bits, gamma, feedback, 1);
        EXPECT_EQ(rounded.codes, nearest.codes) << bits;
        EXPECT_EQ(rounded.scale, nearest.scale) << bits;
    }
}

TEST_F(GptqTest, InputsOfZerosGiveTheNearestCodes) {
    const auto weight = gaussian(5 * 12);
    const auto feedback = error_feedback(at::zeros({12, 12}, at::kFloat), 0.01, 1);
    EXPECT_EQ(quantize_with_feedback(weight, 5, 12, 4, {}, feedback, 1).codes,
              format::quantize_weight(weight, 5, 12, 4, {}).codes);
}

// By the definition: columns by falling diagonal, here from left to right. With the errors e of
// those that are rounded, the others minimise e H e^T, so that
//   after column 0:  [3 1; 1 2] x = -e0 [2; 1], x = -e0 [0.6; 0.2]
//   after column 1:  2 x2 = -(e0 + e1)
// and what is rounded is w - x. The scale is 1: the largest weight of a row is 7.
TEST_F(GptqTest, ThreeColumnsAsByHand) {
    const auto hessian = at::tensor({4.0f, 2.0f, 1.0f,  //
                                     2.0f, 3.0f, 1.0f,  //
                                     1.0f, 1.0f, 2.0f})
                             .view({3, 3});
    const std::vector<float> weight = {
        2.4f, 7.0f, 0.4f,   // e0 = 0.4, 7.24 is clipped, e1 = 0, and 0.6 is rounded
        7.0f, 2.4f, 0.35f,  // e0 = 0, e1 = 0.4, and 0.55 is rounded
        0.4f, 0.3f, 7.0f};  // e0 = 0.4, 0.54 is rounded, e1 = -0.7, and 6.85 is rounded
    const auto feedback = error_feedback(hessian, kHardlyAny, 1);
    EXPECT_EQ(feedback.order, (std::vector<std::int64_t>{2, 1, 0}));
    const auto rounded = quantize_with_feedback(weight, 3, 3, 4, {}, feedback, 1);
    EXPECT_EQ(rounded.codes, (std::vector<std::int8_t>{2, 7, 1, 7, 2, 1, 0, 1, 7}));
    EXPECT_EQ(format::quantize_weight(weight, 3, 3, 4, {}).codes,
              (std::vector<std::int8_t>{2, 7, 0, 7, 2, 0, 0, 0, 7}));
}

TEST_F(GptqTest, TheOutputsErrorIsNotAboveThatOfNearest) {
    double sum = 0;
    for (int problem = 0; problem < 100; ++problem) {
        const int k = 8 + 3 * problem;  // one, two and three blocks of columns
        const int n = 16;
        const auto weight = gaussian(static_cast<std::int64_t>(n) * k);
        const auto hessian = correlated_hessian(k, 4 * k);
        const int bits = problem % 3 == 0 ? 6 : 4;
        const auto gamma = search_clipping(weight, n, k, bits, clip_grid(bits));
        const auto feedback = error_feedback(hessian, 0.01, 1);
        const auto rounded = quantize_with_feedback(weight, n, k, bits, gamma, feedback, 1);
        const auto nearest = format::quantize_weight(weight, n, k, bits, gamma);
        const double ratio =
            output_error(weight, rounded, hessian) / output_error(weight, nearest, hessian);
        EXPECT_LE(ratio, 1.0) << problem;
        sum += ratio;
    }
    EXPECT_LT(sum / 100, 0.7);
}

TEST_F(GptqTest, WeightsOnTheGridStay) {
    constexpr int kRows = 6, kWidth = 150;
    format::QuantizedWeight grid;
    for (int i = 0; i < kRows * kWidth; ++i) {
        grid.codes.push_back(static_cast<std::int8_t>(i % kWidth == 3 ? 7 : i * 7 % 14 - 6));
    }
    grid.scale = {0.25f, 0.5f, 1.0f, 2.0f, 0.125f, 4.0f};
    const auto weight = dequantize(grid, kWidth);
    const auto feedback = error_feedback(correlated_hessian(kWidth, 400), 0.01, 1);
    const auto rounded = quantize_with_feedback(weight, kRows, kWidth, 4, {}, feedback, 1);
    EXPECT_EQ(rounded.codes, grid.codes);
    EXPECT_EQ(rounded.scale, grid.scale);
}

TEST_F(GptqTest, AnyNumberOfThreadsGivesTheSameCodes) {
    constexpr int kRows = 600, kWidth = 700;
    const auto weight = gaussian(kRows * kWidth);
    const auto hessian = correlated_hessian(kWidth, 2000);
    const auto one = error_feedback(hessian, 0.01, 1);
    const auto codes = quantize_with_feedback(weight, kRows, kWidth, 4, {}, one, 1).codes;
    for (const int threads : {2, 3, 8}) {
        const auto several = error_feedback(hessian, 0.01, threads);
        EXPECT_TRUE(at::equal(several.shares, one.shares)) << threads;
        EXPECT_EQ(quantize_with_feedback(weight, kRows, kWidth, 4, {}, several, threads).codes,
                  codes)
            << threads;
    }
}

/// Fewer rows than channels, and channels that are always zero.
TEST_F(GptqTest, DampingMakesUpForInputsThatAreMissing) {
    constexpr int kRows = 8, kWidth = 96;
    auto x = at::randn({20, kWidth}, at::kFloat);
    x.narrow(1, 10, 5).zero_();
    const auto hessian = at::matmul(x.t(), x);
    const auto weight = gaussian(kRows * kWidth);
    for (const double damping : {kHardlyAny, 0.01}) {
        const auto feedback = error_feedback(hessian, damping, 1);
        ASSERT_TRUE(feedback.shares.isfinite().all().item<bool>()) << damping;
        const auto rounded = quantize_with_feedback(weight, kRows, kWidth, 4, {}, feedback, 1);
        EXPECT_LT(
            output_error(weight, rounded, hessian),
            output_error(weight, format::quantize_weight(weight, kRows, kWidth, 4, {}), hessian));
    }
}

/// x' = (x / c) R has the sum that the transform gives.
TEST_F(GptqTest, TheSumIsThatOfTransformedRows) {
    constexpr int kWidth = 192, kCount = 50;  // three blocks of 64
    const auto x = at::randn({kCount, kWidth}, at::kFloat);
    auto scale = gaussian(kWidth);
    for (auto& c : scale) {
        c = std::exp(c);
    }
    const auto signs = rotation_signs(3, 1, kWidth);
    auto rows = transform_rows(values_of(x), kWidth, scale, signs);
    const auto moved = at::from_blob(rows.data(), {kCount, kWidth}, at::kFloat);
    const auto sum =
        transformed_hessian(at::matmul(x.t(), x), scale, signed_hadamard(signs, 64), 2);
    const auto expected = at::matmul(moved.t(), moved);
    EXPECT_LT((sum - expected).abs().max().item<float>(),
              1e-4f * expected.abs().max().item<float>());
    EXPECT_TRUE(at::allclose(
        transformed_hessian(at::matmul(x.t(), x), std::vector(scale.size(), 2.0f), at::Tensor(), 1),
        at::matmul(x.t(), x) / 4));
}

/// e H e^T of one row, H damped.
double row_error(std::span<const float> weight, std::span<const std::int8_t> codes, float scale,
                 const OutputError& error) {
    const auto k = weight.size();
    const auto values = error.hessian.to(at::kDouble).contiguous();
    const double* h = values.data_ptr<double>();
    double sum = 0;
    for (std::size_t i = 0; i < k; ++i) {
        const double left = static_cast<double>(weight[i]) - codes[i] * scale;
        for (std::size_t j = 0; j < k; ++j) {
            const double right = static_cast<double>(weight[j]) - codes[j] * scale;
            sum += left * right * (h[i * k + j] + (i == j ? error.added : 0.0));
        }
    }
    return sum;
}

// Errors 0.4 and 0.4, slopes 0.4 + 0.9 * 0.4 = 0.76 each. Column 0 goes to 0.76, rounded 1; its
// error is -0.6 and the slope of column 1 0.4 - 0.9 * 0.6 = -0.14, rounded 0. In the second row
// column 0 would go to 8.4 and the largest code is 7.
TEST_F(GptqTest, DescentOfTwoColumnsAsByHand) {
    const OutputError error{at::tensor({1.0f, 0.9f, 0.9f, 1.0f}).view({2, 2}), 0};
    const std::vector<float> weight = {0.4f, 0.4f, 7.5f, 1.0f};
    format::QuantizedWeight quantized{{0, 0, 7, 0}, {1.0f, 1.0f}};
    descend(weight, 2, 2, 4, error, 1, 1, quantized);
    EXPECT_EQ(quantized.codes, (std::vector<std::int8_t>{1, 0, 7, 1}));
    EXPECT_EQ(quantized.scale, (std::vector<float>{1.0f, 1.0f}));
}

TEST_F(GptqTest, AfterDescentNoSingleCodeCanBeChangedForTheBetter) {
    constexpr int kRows = 5, kWidth = 9, kUntilNothingMoves = 40;
    const auto weight = gaussian(kRows * kWidth);
    const OutputError error{correlated_hessian(kWidth, 40), 0.3};
    auto quantized = format::quantize_weight(weight, kRows, kWidth, 4);
    descend(weight, kRows, kWidth, 4, error, kUntilNothingMoves, 1, quantized);
    for (std::size_t row = 0; row < kRows; ++row) {
        const auto w = std::span(weight).subspan(row * kWidth, kWidth);
        const auto codes = std::span(quantized.codes).subspan(row * kWidth, kWidth);
        const double least = row_error(w, codes, quantized.scale[row], error);
        for (auto& code : codes) {
            const auto kept = code;
            for (int other = -8; other <= 7; ++other) {
                code = static_cast<std::int8_t>(other);
                EXPECT_GE(row_error(w, codes, quantized.scale[row], error), least * (1 - 1e-4));
            }
            code = kept;
        }
    }
}

TEST_F(GptqTest, DescentRaisesTheErrorOfNoRow) {
    for (const int k : {5, 130, 300}) {  // one, two and three blocks of columns
        constexpr int kRows = 4;
        const auto weight = gaussian(kRows * static_cast<std::int64_t>(k));
        const auto feedback = error_feedback(correlated_hessian(k, 4 * k), 0.03, 1);
        auto quantized = quantize_with_feedback(weight, kRows, k, 4, {}, feedback, 1);
        double before = 0, after = 0;
        for (int pass = 0; pass < 3; ++pass) {
            const auto previous = quantized;
            descend(weight, kRows, k, 4, feedback.error, 1, 1, quantized);
            for (std::size_t row = 0; row < kRows; ++row) {
                const auto width = static_cast<std::size_t>(k);
                const auto error_of = [&](const format::QuantizedWeight& of) {
                    return row_error(std::span(weight).subspan(row * width, width),
                                     std::span(of.codes).subspan(row * width, width), of.scale[row],
                                     feedback.error);
                };
                before = error_of(previous);
                after = error_of(quantized);
                EXPECT_LE(after, before * (1 + 1e-5)) << k << " columns, row " << row;
            }
        }
    }
}

TEST_F(GptqTest, DescentKeepsTheNearestCodesOfIndependentInputs) {
    constexpr int kRows = 7, kWidth = 200;
    const auto weight = gaussian(kRows * kWidth);
    const OutputError error{at::diag(at::rand({kWidth}, at::kFloat) * 100 + 0.1), 0.01};
    auto quantized = format::quantize_weight(weight, kRows, kWidth, 4);
    const auto nearest = quantized.codes;
    descend(weight, kRows, kWidth, 4, error, 2, 1, quantized);
    EXPECT_EQ(quantized.codes, nearest);
}

TEST_F(GptqTest, DescentOnAnyNumberOfThreadsGivesTheSameCodes) {
    constexpr int kRows = 600, kWidth = 300;
    const auto weight = gaussian(kRows * kWidth);
    const OutputError error{correlated_hessian(kWidth, 900), 1.0};
    const auto codes_of = [&](int threads) {
        auto quantized = format::quantize_weight(weight, kRows, kWidth, 4);
        descend(weight, kRows, kWidth, 4, error, 2, threads, quantized);
        return quantized.codes;
    };
    const auto one = codes_of(1);
    EXPECT_NE(one, format::quantize_weight(weight, kRows, kWidth, 4).codes);
    EXPECT_EQ(codes_of(3), one);
}

class RoundingTest : public testing::Test {
  protected:
    void SetUp() override {
        reset_cancel();
        options_.model.model =
            fs::path(QUANTSPARSE_TEST_ROOT) / "samples" / "models" / "shapes-tiny";
        options_.output = folder_ / "out.safetensors";
        options_.samples = 2;
        options_.steps = 4;
        options_.width = options_.height = 96;
        options_.frames = 9;
        options_.prompts = {"a red circle moves left on a black background",
                            "a green square moves right on a navy background"};
    }

    format::test::TemporaryFolder folder_;
    CalibrationOptions options_;
};

TEST_F(RoundingTest, SumsAreThoseOfTheRowsAndTheSameForAnyNumberOfThreads) {
    const auto model = format::open_model(options_.model);
    const auto samples = collect(model, options_, false).samples;
    ASSERT_EQ(samples.training, 80U);  // 80 * 108 tokens: the most, still fewer than 20000 rows
    const auto network = make_transformer(transformer_of(model));
    const auto weights = load_block_weights(transformer_of(model), 0);
    const auto one = observe_block(*network, weights, samples, BlockInputs::fp, 1, 1);
    ASSERT_EQ(one.outputs.size(), samples.training);
    const auto several = observe_block(*network, weights, samples, BlockInputs::fp, 1, 3);
    for (const auto& [group, sum] : one.hessians) {
        EXPECT_TRUE(at::equal(several.hessians.at(group), sum)) << group;
    }
    // The feed-forward's input of each sample, summed in double precision.
    auto expected = at::zeros({192, 192}, at::kDouble);
    for (std::size_t i = 0; i < samples.training; ++i) {
        BlockMethods methods;
        methods.project = [&](std::string_view group, const at::Tensor& rows) {
            if (group == "ffn_0") {
                const auto x = rows.to(at::kDouble);
                expected += at::matmul(x.t(), x);
            }
            return project_exactly(weights, group, rows);
        };
        network->run_block(weights, samples.states[i], methods);
    }
    const auto difference = (one.hessians.at("ffn_0") - expected).abs().max().item<double>();
    EXPECT_LT(difference, 1e-5 * expected.abs().max().item<double>());
}

/// Samples are in pairs; the seventh has none. What guidance makes of two outputs x W^T is what the
/// linear makes of the rows combined alike, so these are summed, too.
TEST_F(RoundingTest, RowsAsGuidanceCombinesThemAreAdded) {
    const auto model = format::open_model(options_.model);
    auto samples = collect(model, options_, false).samples;
    samples.training = 7;
    const auto network = make_transformer(transformer_of(model));
    const auto weights = load_block_weights(transformer_of(model), 0);
    const auto plain = observe_block(*network, weights, samples, BlockInputs::fp, 1, 1);
    const auto guided = observe_block(*network, weights, samples, BlockInputs::fp, 4, 1);
    const auto several = observe_block(*network, weights, samples, BlockInputs::fp, 4, 3);
    for (const auto& [group, sum] : guided.hessians) {
        EXPECT_TRUE(at::equal(several.hessians.at(group), sum)) << group;
    }
    EXPECT_TRUE(at::equal(guided.hessians.at("cross_kv"), plain.hessians.at("cross_kv")));
    std::vector<at::Tensor> rows_of;
    for (std::size_t i = 0; i < samples.training; ++i) {
        BlockMethods methods;
        methods.project = [&](std::string_view group, const at::Tensor& rows) {
            if (group == "ffn_2") {
                rows_of.push_back(rows.to(at::kDouble));
            }
            return project_exactly(weights, group, rows);
        };
        network->run_block(weights, samples.states[i], methods);
    }
    auto expected = plain.hessians.at("ffn_2").to(at::kDouble);
    for (std::size_t i = 0; i + 1 < samples.training; i += 2) {
        const auto x = 4 * rows_of.at(i) - 3 * rows_of.at(i + 1);
        expected += at::matmul(x.t(), x);
    }
    const auto difference = (guided.hessians.at("ffn_2") - expected).abs().max().item<double>();
    EXPECT_LT(difference, 1e-5 * expected.abs().max().item<double>());
}

TEST_F(RoundingTest, EveryBlockIsAtLeastTwoDecibelBetterThanToNearest) {
    const auto summary_of = [&](Rounding rounding) {
        options_.method.rounding = rounding;
        return calibrate(options_, false);
    };
    const auto nearest = summary_of(Rounding::nearest);
    const double two_decibel = std::pow(10.0, -0.2);
    for (const auto rounding : {Rounding::gptq, Rounding::refined}) {
        const auto fed = summary_of(rounding);
        ASSERT_EQ(fed.blocks.size(), 6U);
        for (std::size_t i = 0; i < fed.blocks.size(); ++i) {
            EXPECT_LT(fed.blocks[i].errors.own, two_decibel * nearest.blocks[i].errors.own) << i;
        }
        EXPECT_LT(fed.blocks.back().errors.prefix,
                  two_decibel * nearest.blocks.back().errors.prefix);
    }
}

TEST_F(RoundingTest, PresetsRoundAsTheirSourcesDo) {
    const auto rounding_of = [](const char* preset) { return method_of(preset, {}, 8).rounding; };
    for (const char* preset : {"fast", "full"}) {
        EXPECT_EQ(rounding_of(preset), Rounding::refined) << preset;
    }
    EXPECT_EQ(rounding_of("quarot"), Rounding::gptq);
    for (const char* preset : {"paper", "minmax", "smoothquant", "vidit-q", "q-vdit"}) {
        EXPECT_EQ(rounding_of(preset), Rounding::nearest) << preset;
    }
    MethodOverrides nearest;
    nearest.rounding = Rounding::nearest;
    EXPECT_EQ(method_of("fast", nearest, 8).rounding, Rounding::nearest);
}

}  // namespace
}  // namespace quantsparse::calib
