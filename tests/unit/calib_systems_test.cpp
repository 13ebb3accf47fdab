// What the presets of other systems are made of, each against an answer that is known (method 7.2).
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "calib/calibrate.hpp"
#include "calib/candidates.hpp"
#include "calib/channel_salience.hpp"
#include "calib/collect.hpp"
#include "calib/fake_quant.hpp"
#include "calib/forward.hpp"
#include "calib/input_matrix.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/low_rank_branch.hpp"
#include "calib/orthogonal.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/rotation.hpp"
#include "calib/sample_selection.hpp"
#include "calib/smoothing.hpp"
#include "calib/tensors.hpp"
#include "calib/token_error.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "sampling/scheduler.hpp"
#include "unit/calib_support.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;

std::vector<float> normal_values(std::size_t count, std::uint64_t seed) {
    std::vector<float> values(count);
    sampling::fill_gaussian(seed, values);
    return values;
}

at::Tensor normal_matrix(std::int64_t rows, std::int64_t columns, std::uint64_t seed) {
    return test::to_tensor(normal_values(static_cast<std::size_t>(rows * columns), seed),
                           {rows, columns});
}

TEST(RankCorrelation, IsSpearmans) {
    // scipy.stats.spearmanr
    EXPECT_NEAR(rank_correlation(std::vector{1.f, 2.f, 2.f, 3.f}, std::vector{1.f, 2.f, 3.f, 4.f}),
                0.9486832980505138, 1e-12);
    EXPECT_NEAR(rank_correlation(std::vector{3.f, 1.f, 4.f, 1.f, 5.f},
                                 std::vector{2.f, 7.f, 1.f, 8.f, 2.f}),
                -0.7894736842105263, 1e-12);
    EXPECT_DOUBLE_EQ(rank_correlation(std::vector{1.f, 2.f, 9.f}, std::vector{30.f, 20.f, -10.f}),
                     -1.0);
    EXPECT_EQ(rank_correlation(std::vector{5.f, 5.f, 5.f}, std::vector{1.f, 2.f, 3.f}), 0.0);
}

TEST(Ptq4Dit, EqualObservationsGiveTheScaleOfSmoothQuant) {
    const int k = 48;
    GroupActivations activations;
    activations.width = k;
    activations.absmax = normal_values(k, 1);
    for (auto& value : activations.absmax) {
        value = std::fabs(value) + 0.1f;
    }
    for (int i = 0; i < 7; ++i) {
        activations.observations.insert(activations.observations.end(), activations.absmax.begin(),
                                        activations.absmax.end());
    }
    const std::vector<std::vector<float>> weights = {normal_values(16 * k, 2)};
    const GroupProblem problem{&activations, &weights, {}, 4, 8};
    EXPECT_EQ(salient_smoothing(problem).scale, fixed_smoothing(problem, 0.5f).scale);
}

TEST(Ptq4Dit, TheObservationAgainstTheWeightCountsMost) {
    const std::vector<float> weight = {1, 2, 3, 4};
    // Rank correlations 1, 0.6 and -1.
    const std::vector<float> observations = {10, 20, 30, 40, 2, 1, 4, 3, 8, 7, 6, 5};
    const auto weights = observation_weights(observations, weight);
    ASSERT_EQ(weights.size(), 3U);
    EXPECT_NEAR(weights[0], 0.1012055, 1e-6);  // softmax of -1, -0.6, 1
    EXPECT_NEAR(weights[1], 0.1509809, 1e-6);
    EXPECT_NEAR(weights[2], 0.7478135, 1e-6);
    EXPECT_NEAR(salient_absmax(observations, weight)[3],
                0.1012055 * 40 + 0.1509809 * 3 + 0.7478135 * 5, 1e-4);
}

TEST(RotateScale, TheProductIsUnchanged) {
    const int k = 96;  // three blocks of 32
    const auto x = normal_values(5 * k, 3);
    const auto w = normal_values(7 * k, 4);
    auto scale = normal_values(k, 5);
    for (auto& c : scale) {
        c = std::exp(c);
    }
    const auto signs = rotation_signs(9, 27, k);
    constexpr auto kOrder = TransformOrder::rotate_scale;
    const auto rows = transform_rows(x, k, scale, signs, kOrder);
    EXPECT_GT(signal_to_noise_db(
                  multiply_transposed(x, w, 5, 7, k),
                  multiply_transposed(rows, transform_weight(w, k, scale, signs, kOrder), 5, 7, k)),
              100.0);
    const auto by_matrix =
        rotate_rows(test::to_tensor(x, {5, k}), input_matrix(signs, 32, scale)).contiguous();
    EXPECT_GT(signal_to_noise_db(rows, values_of(by_matrix)), 100.0);
    EXPECT_LT(signal_to_noise_db(rows, transform_rows(x, k, scale, signs)), 3.0);  // not the same
}

TEST(RotateScale, ScaleAndRotationComeBackFromTheMatrix) {
    const int k = 64;
    const auto signs = rotation_signs(1, 2, k);
    auto scale = normal_values(k, 6);
    for (auto& c : scale) {
        c = std::exp(c);
    }
    const auto c = normalised_scale(test::to_tensor(scale, {k}));
    EXPECT_EQ(c.min().item<float>(), 1.0f);
    const auto matrix = input_matrix(signs, 64, values_of(c));
    EXPECT_LE(matrix.abs().max().item<float>(), 1.0f);  // what the file's reader takes
    const auto parts = parts_of(half_values(matrix), 64);
    EXPECT_TRUE(at::allclose(parts.rotation, signed_hadamard(signs, 64)));
    EXPECT_TRUE(at::allclose(parts.scale, c, 1e-3));
}

/// Mean over the tokens of each one's relative output error at W4A8.
double mean_token_error(const GroupProblem& problem, int rows, int n) {
    const int k = problem.activations->width;
    const auto& weight = problem.weights->front();
    const auto scale = fixed_smoothing(problem, 0.5f).scale;
    const auto x =
        transform_rows(problem.activations->rows, k, scale, problem.signs, problem.order);
    const auto w = transform_weight(weight, k, scale, problem.signs, problem.order);
    const auto y = multiply_transposed(fake_quantize_rows(x, rows, k, 8),
                                       fake_quantize_weight(w, n, k, 4, {}), rows, n, k);
    const auto exact = multiply_transposed(problem.activations->rows, weight, rows, n, k);
    double sum = 0;
    for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
        double error = 0, power = 0;
        for (std::size_t i = row * static_cast<std::size_t>(n);
             i < (row + 1) * static_cast<std::size_t>(n); ++i) {
            error +=
                (static_cast<double>(y[i]) - exact[i]) * (static_cast<double>(y[i]) - exact[i]);
            power += static_cast<double>(exact[i]) * exact[i];
        }
        sum += error / power / rows;
    }
    return sum;
}

TEST(RotateScale, OneTokenThatStandsOutCostsLessThanScaledFirst) {
    const int k = 64, rows = 40, n = 48;
    GroupActivations activations;
    activations.width = k;
    activations.rows = normal_values(static_cast<std::size_t>(rows) * k, 7);
    activations.rows[17 * k + 5] = 400;  // of one token, in one channel
    activations.absmax = column_absmax({activations.rows}, k);
    const std::vector<std::vector<float>> weights = {normal_values(n * k, 8)};
    const auto signs = rotation_signs(3, 1, k);
    const auto error_of = [&](TransformOrder order) {
        return mean_token_error({&activations, &weights, signs, 4, 8, order}, rows, n);
    };
    // Scaled first, the channel's weights grow by its one outlier and set all rows' steps.
    EXPECT_LT(error_of(TransformOrder::rotate_scale), 0.7 * error_of(TransformOrder::scale_rotate));
}

TEST(FakeQuant, EndsOfEachRowAreClippedApart) {
    const auto weight = at::tensor({-4.f, 1.f, 2.f, -1.f, 3.f, 5.f}).view({2, 3});
    const auto clipped = clip_ends(weight, at::tensor({0.5f, 1.f}), at::tensor({1.f, 0.8f}));
    EXPECT_TRUE(at::equal(clipped, at::tensor({-2.f, 1.f, 2.f, -1.f, 3.f, 4.f}).view({2, 3})));
}

TEST(SampleSelection, KeepsTheHighestScores) {
    const std::vector<double> scores = {1, 9, 3, 9, 7, 0};
    EXPECT_EQ(highest(scores, 3), (std::vector<std::size_t>{1, 3, 4}));
    EXPECT_EQ(highest(scores, 99).size(), scores.size());
}

TEST(SampleSelection, DropsWhatLiesFarFromTheQuartiles) {
    // numpy.percentile: quartiles 2.25 and 6.75, so that -4.5 to 13.5 is inside.
    const std::vector<double> values = {0, 1, 2, 3, 4, 5, 6, 7, 13.4, 13.6};
    const auto inside = inside_quartiles(values);
    EXPECT_EQ(std::count(inside.begin(), inside.end(), false), 1);
    EXPECT_FALSE(inside[9]);
}

TEST(SampleSelection, FindsPlantedClustersAndTakesOfEach) {
    const std::vector<std::vector<double>> vectors = {{0, 0},  {10, 0},  {0.1, 0},  {10, 0.1},
                                                      {0, 10}, {0, 0.1}, {0.1, 0.1}};
    const auto labels = cluster(vectors, 3);
    EXPECT_EQ(labels[0], labels[2]);
    EXPECT_EQ(labels[0], labels[5]);
    EXPECT_EQ(labels[0], labels[6]);
    EXPECT_EQ(labels[1], labels[3]);
    EXPECT_NE(labels[0], labels[1]);
    EXPECT_NE(labels[0], labels[4]);
    EXPECT_NE(labels[1], labels[4]);
    const auto chosen = from_each_cluster(labels, 5);
    ASSERT_EQ(chosen.size(), 5U);
    std::map<int, int> taken;
    for (const auto i : chosen) {
        ++taken[labels[i]];
    }
    EXPECT_EQ(taken[labels[0]], 2);
    EXPECT_EQ(taken[labels[1]], 2);
    EXPECT_EQ(taken[labels[4]], 1);  // all that it has
    EXPECT_EQ(from_each_cluster(labels, 99).size(), vectors.size());
}

TEST(TokenError, TokensThatReceiveEqualAttentionCountAsWithoutWeights) {
    const auto y = normal_matrix(12, 8, 9), target = normal_matrix(12, 8, 10);
    const auto weights = token_weights(at::full({12}, 0.7, at::kDouble));
    EXPECT_EQ(token_error(y, target, weights).item<float>(),
              token_error(y, target, {}).item<float>());
    EXPECT_EQ(token_error(y, target, {}).item<float>(), (y - target).square().mean().item<float>());
}

TEST(TokenError, CountsInProportionToTheAttentionReceived) {
    const auto weights = token_weights(at::tensor({1.0, 3.0}, at::kDouble));
    EXPECT_TRUE(at::equal(weights, at::tensor({0.5f, 1.5f})));
    const auto y = at::tensor({2.f, 4.f}).view({2, 1});
    EXPECT_EQ(token_error(y, at::zeros({2, 1}), weights).item<float>(), (0.5f * 4 + 1.5f * 16) / 2);
}

TEST(LowRankBranch, OneBitIsExactForErrorsOfOneSize) {
    const auto error = at::tensor({0.5f, -0.5f, 0.5f, 1.f, 2.f, 3.f, -2.f, -2.f, 2.f}).view({3, 3});
    const auto branch = sign_branch(error, {2, 0});
    const auto product = at::mm(branch.up, branch.down);
    EXPECT_TRUE(at::allclose(product[0], error[0]));
    EXPECT_TRUE(at::allclose(product[2], error[2]));
    EXPECT_EQ(product[1].abs().max().item<float>(), 0.0f);
}

TEST(LowRankBranch, AtFullRankNoErrorIsLeft) {
    const auto weight = normal_matrix(24, 40, 11);
    const auto quantized = learnable_weight_quantize(weight, at::ones({24}), 4);
    const auto error_at = [&](double share, std::int64_t rank) {
        const auto branch = residual_branch(weight, quantized, share, rank);
        return (weight - quantized - at::mm(branch.up, branch.down)).norm().item<double>() /
               (weight - quantized).norm().item<double>();
    };
    EXPECT_LT(error_at(0.1, 24), 1e-4);
    EXPECT_LT(error_at(0.0, 24), 1e-4);
    EXPECT_LT(error_at(0.0, 4), 1.0);
    EXPECT_GT(error_at(0.0, 4), error_at(0.1, 4));
}

TEST(LowRankBranch, RowsWithOutliersHaveTheHighestKurtosis) {
    auto weight = normal_matrix(4, 200, 12);
    weight[2][7] = 30;
    weight[3] = weight[3].sign();
    const auto kurtosis = row_kurtosis(weight);
    EXPECT_EQ(highest(kurtosis, 1).front(), 2U);
    EXPECT_NEAR(kurtosis[0], 3.0, 1.0);  // of a Gaussian
    EXPECT_NEAR(kurtosis[3], 1.0, 0.1);  // of two values
}

TEST(LowRankBranch, DirectionsOfTransformedRowsHoldForRawOnes) {
    const int k = 64;
    const auto x = normal_values(3 * k, 13), d = normal_values(5 * k, 14);
    auto scale = normal_values(k, 15);
    for (auto& c : scale) {
        c = std::exp(0.5f * c);
    }
    const auto signs = rotation_signs(5, 1, k);
    for (const auto order : {TransformOrder::scale_rotate, TransformOrder::rotate_scale}) {
        const auto expected =
            multiply_transposed(transform_rows(x, k, scale, signs, order), d, 3, 5, k);
        const auto found =
            multiply_transposed(x, directions_of_inputs(d, k, scale, signs, order), 3, 5, k);
        EXPECT_GT(signal_to_noise_db(expected, found), 100.0);
    }
}

class SystemsTest : public testing::Test {
  protected:
    void SetUp() override {
        reset_cancel();
        set_thread_count(1);
        const auto tokenizer = fs::path(QUANTSPARSE_TEST_ROOT) / "samples" / "models" /
                               "shapes-tiny" / "tokenizer" / "spiece.model";
        tiny_.text_encoder.vocab_size = 512;  // at least as many as the bundled tokenizer's
        tiny_.write_diffusers_folder(folder_ / "model",
                                     format::read_small_text(tokenizer, 1 << 20));
        options_.model.model = folder_ / "model";
        options_.samples = 8;
        options_.steps = 4;
        options_.kept_rows = 64;
        options_.threads = 1;
        options_.learning.epochs = 2;
    }

    CalibrationSummary run(const std::string& preset) {
        options_.preset = preset;
        options_.output = folder_ / (preset + ".safetensors");
        return calibrate(options_, false);
    }
    std::shared_ptr<const format::Checkpoint> written() const {
        return format::open_model(options_.output).at("transformer").checkpoint;
    }

    format::test::TinyModel tiny_;
    format::test::TemporaryFolder folder_;
    CalibrationOptions options_;
};

TEST_F(SystemsTest, QDitRoundsWithErrorFeedbackAndDoesNothingElse) {
    const auto nearest = run("minmax");
    const auto rounded = run("q-dit");
    for (std::size_t i = 0; i < rounded.blocks.size(); ++i) {
        EXPECT_LT(rounded.blocks[i].errors.own, nearest.blocks[i].errors.own) << i;
    }
    for (const auto& linear : rounded.reports) {
        EXPECT_EQ(linear.mean_gamma, 1.0) << linear.name;
    }
    const auto checkpoint = written();
    EXPECT_EQ(checkpoint->find("blocks.0.ffn.0.rotation_signs"), nullptr);
    for (const float c : format::to_float(checkpoint->at("blocks.0.ffn.0.channel_scale"))) {
        EXPECT_EQ(c, 1.0f);
    }
}

TEST_F(SystemsTest, Ptq4DitScalesByWhatEachStepSaw) {
    const auto summary = run("ptq4dit");
    EXPECT_LT(summary.blocks.back().errors.own, 0.2);
    const auto checkpoint = written();
    const auto found = format::to_float(checkpoint->at("blocks.1.ffn.2.channel_scale"));
    // Interrupted work keeps the observations: another run takes them from the file.
    run("smoothquant");
    const auto mean = format::to_float(written()->at("blocks.1.ffn.2.channel_scale"));
    EXPECT_NE(found, mean);
    EXPECT_GT(signal_to_noise_db(mean, found), 10.0);  // steps of one clip differ little
}

TEST_F(SystemsTest, ObservationsSurviveTheWorkFile) {
    const auto model = format::open_model(options_.model);
    const auto& network = transformer_of(model).network;
    CollectedActivations activations(network, true);
    const auto width = static_cast<std::size_t>(activations.group(0, "ffn_0").width);
    activations.add(0, "ffn_0", {normal_values(width, 1), normal_values(width, 2)});
    activations.add(0, "ffn_0", {normal_values(width, 3), normal_values(width, 4)});
    activations.save(folder_ / "work", "mine");
    const auto loaded = CollectedActivations::load(folder_ / "work", "mine", network);
    ASSERT_TRUE(loaded);
    EXPECT_EQ(loaded->group(0, "ffn_0").observations, activations.group(0, "ffn_0").observations);
    EXPECT_EQ(loaded->group(0, "ffn_0").observations.size(), 2 * width);
}

TEST_F(SystemsTest, QuantVggtStoresOneMatrixForRotationAndScale) {
    const auto summary = run("quantvggt");
    for (const auto& block : summary.blocks) {
        EXPECT_LE(block.learning.best.output, block.learning.start.output);
        EXPECT_LT(block.errors.own, 0.2);
    }
    const auto checkpoint = written();
    EXPECT_EQ(checkpoint->find("blocks.0.ffn.0.rotation_signs"), nullptr);
    for (const float c : format::to_float(checkpoint->at("blocks.0.ffn.0.channel_scale"))) {
        EXPECT_EQ(c, 1.0f);
    }
    const auto& stored = checkpoint->at("blocks.0.ffn.2.rotation");
    ASSERT_EQ(stored.shape, (std::vector<std::int64_t>{5, 32, 32}));  // 160 = 5 * 32
    const auto matrix = test::to_tensor(format::to_float(stored), {5, 32, 32});
    // Columns are orthogonal, of different lengths: a rotation, then a scale.
    const auto gram = at::matmul(matrix.transpose(1, 2), matrix);
    const auto lengths = at::diagonal(gram, 0, 1, 2);
    EXPECT_LT((gram - at::diag_embed(lengths)).abs().max().item<float>(), 1e-3);
    EXPECT_GT((lengths.max() / lengths.min()).item<float>(), 1.05f);
}

TEST_F(SystemsTest, LearnedAfterAllTheTransformsErrorFeedbackFitsThem) {
    options_.method.rounding = Rounding::gptq;
    const auto rounded = run("quantvggt");
    options_.method.rounding = Rounding::nearest;
    const auto nearest = run("quantvggt");
    for (std::size_t i = 0; i < rounded.blocks.size(); ++i) {
        EXPECT_LT(rounded.blocks[i].errors.own, nearest.blocks[i].errors.own) << i;
    }
}

TEST_F(SystemsTest, S2qVditLearnsFromTheInputsWithTheHighestScores) {
    options_.preset = "s2q-vdit";
    const auto model = format::open_model(options_.model);
    const auto& transformer = transformer_of(model);
    const auto samples = collect(model, options_, false).samples;
    EXPECT_EQ(samples.training, 8U);
    Candidates candidates(transformer, options_, 2, 2);  // one clip, two branches
    Forward forward(transformer);
    std::vector<at::Tensor> latents = {normal_matrix(1, 16 * 2 * 4 * 4, 1).view({16, 2, 4, 4})};
    // Steps 1 and 2 move the latent, and in step 2 the second branch's prediction is far from
    // what rounding gives.
    for (int step = 0; step < 4; ++step) {
        std::vector<TransformerInput> inputs(2);
        for (auto& input : inputs) {
            input.latent = latents.back();
            input.texts = {{"context", at::zeros({3, tiny_.transformer.text_dim})}};
            input.timestep = 900.0 - 200.0 * step;
        }
        auto predictions = forward.run(inputs);
        if (step == 2) {
            predictions[1] = -predictions[1];
        }
        candidates.end_step(forward.transformer(), inputs, predictions);
        latents.push_back(latents.back() * (step == 1 || step == 2 ? 1.5 : 1.001));
    }
    const auto chosen = candidates.choose(3, {{0, 1, 0}}, {latents.back()});
    ASSERT_EQ(chosen.size(), 3U);
    EXPECT_EQ(chosen[0], (SampleChoice{0, 2, 1}));
    // Of the rest those whose latent moves, less the one that is held out.
    EXPECT_TRUE((chosen[1] == SampleChoice{0, 1, 1} && chosen[2] == SampleChoice{0, 2, 0}) ||
                (chosen[2] == SampleChoice{0, 1, 1} && chosen[1] == SampleChoice{0, 2, 0}));
    const auto summary = run("s2q-vdit");
    for (const auto& block : summary.blocks) {
        EXPECT_LE(block.learning.best.output, block.learning.start.output);
    }
}

TEST_F(SystemsTest, MpqDmPutsAProductBesideTheCodes) {
    const auto without = run("smoothquant");
    const auto with = run("mpq-dm");
    for (std::size_t i = 0; i < with.blocks.size(); ++i) {
        EXPECT_LT(with.blocks[i].errors.own, without.blocks[i].errors.own) << i;
    }
    const auto checkpoint = written();
    const auto model = format::open_model(options_.output);
    const auto& scale = checkpoint->at("blocks.0.ffn.0.scale");
    const auto& down = checkpoint->at("blocks.0.ffn.0.lora_down");
    const auto& up = checkpoint->at("blocks.0.ffn.0.lora_up");
    EXPECT_EQ(up.shape.front(), scale.shape.front());
    EXPECT_EQ(up.shape.back(), down.shape.front());
    EXPECT_EQ(down.shape.front(), 16 + scale.shape.front() / 10);
    EXPECT_NE(model.quantization.record.find(R"("branch_rank":16)"), std::string::npos);
}

TEST_F(SystemsTest, QVditLearnsABranchOfRankOne) {
    const auto summary = run("q-vdit");
    EXPECT_LT(summary.blocks.back().errors.own, 0.2);
    const auto checkpoint = written();
    const auto& up = checkpoint->at("blocks.1.ffn.0.lora_up");
    EXPECT_EQ(up.shape.back(), 1);
    const auto values = format::to_float(up);
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float value) { return value != 0; }));
}

}  // namespace
}  // namespace quantsparse::calib
