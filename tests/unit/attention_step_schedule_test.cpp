// The schedule of dense, refresh and sparse steps, against sequences written out by hand.
#include "attention/step_schedule.hpp"

#include <gtest/gtest.h>

#include <string>

namespace quantsparse::attention {
namespace {

std::vector<float> falling(int steps) {
    std::vector<float> sigmas;
    for (int i = 0; i < steps; ++i) sigmas.push_back(1.0f - static_cast<float>(i * i) / 1000.0f);
    return sigmas;
}

AttentionParameters sparse(SsarMode mode, int interval = 5) {
    AttentionParameters parameters;
    parameters.kind = AttentionKind::sparse;
    parameters.ssar = mode;
    parameters.ssar_gain = SsarGain::one;
    parameters.refresh_interval = interval;
    return parameters;
}

std::string letters(const StepSchedule& schedule) {
    std::string text;
    for (int i = 0; i < schedule.steps(); ++i) text += "DRs-"[static_cast<int>(schedule.kind(i))];
    return text;
}

std::string letters(const AttentionParameters& parameters, int steps) {
    return letters(StepSchedule(parameters, falling(steps)));
}

using Row = std::array<float, 4>;

TEST(StepSchedule, RefreshesEveryInterval) {
    EXPECT_EQ(letters(sparse(SsarMode::svd), 12), "RssssRssssRs");
    EXPECT_EQ(letters(sparse(SsarMode::none), 6), "RssssR");
    EXPECT_EQ(letters(sparse(SsarMode::first, 1), 4), "RRRR");
    EXPECT_EQ(letters(sparse(SsarMode::first, 100), 4), "Rsss");
}

TEST(StepSchedule, AdjacentSpanComputesTheStepBeforeARefreshDenselyToo) {
    auto parameters = sparse(SsarMode::svd);
    parameters.ssar_span = SsarSpan::adjacent;
    EXPECT_EQ(letters(parameters, 13), "RsssRRsssRRss");
    EXPECT_EQ(letters(parameters, 5), "Rssss") << "no refresh follows the last step";
}

TEST(StepSchedule, RefreshesCountTheStepsThatAreNotReused) {
    std::vector<bool> reused(12, false);
    for (const std::size_t step : {1u, 2u, 5u, 7u}) reused[step] = true;
    const StepSchedule schedule(sparse(SsarMode::svd, 3), falling(12), reused);
    EXPECT_EQ(letters(schedule), "R--ss-R-ssRs");
    EXPECT_EQ(schedule.count(StepKind::reused), 4);
    EXPECT_EQ(schedule.kind(1, 0), StepKind::reused) << "the layers that are else always dense too";
    // The correction's gain is of time, not of computed steps.
    auto parameters = sparse(SsarMode::second, 3);
    parameters.ssar_gain = SsarGain::linear;
    const auto correction = StepSchedule(parameters, falling(12), reused).correction(9);
    EXPECT_FLOAT_EQ(correction.coefficients[2][1], 1 + 3.0f / 6);
    EXPECT_FLOAT_EQ(correction.coefficients[2][0], -3.0f / 6);
    parameters.kind = AttentionKind::dense;
    EXPECT_EQ(letters(StepSchedule(parameters, falling(12), reused)), "D--DD-D-DDDD");
}

TEST(StepSchedule, StaticSparsityKeepsAFifthOfTheStepsDenseAndNeverRefreshes) {
    EXPECT_EQ(letters(sparse(SsarMode::off), 10), "DDssssssss");
    auto parameters = sparse(SsarMode::off);
    parameters.dense_steps = 0;
    EXPECT_EQ(letters(parameters, 3), "sss");
    parameters.dense_steps = 7;
    EXPECT_EQ(letters(parameters, 3), "DDD");
}

TEST(StepSchedule, DenseStepsStillLeaveReferences) {
    auto parameters = sparse(SsarMode::svd);
    parameters.dense_steps = 7;
    EXPECT_EQ(letters(parameters, 12), "RDDDDRDsssRs");
}

TEST(StepSchedule, DenseAttentionIsDenseThroughout) {
    EXPECT_EQ(letters(AttentionParameters{}, 4), "DDDD");
}

TEST(StepSchedule, FirstLayersStayDense) {
    auto parameters = sparse(SsarMode::svd);
    parameters.dense_layers = 2;
    const StepSchedule schedule(parameters, falling(6));
    EXPECT_EQ(schedule.kind(1, 0), StepKind::dense);
    EXPECT_EQ(schedule.kind(0, 1), StepKind::dense);
    EXPECT_EQ(schedule.kind(1, 2), StepKind::sparse);
    EXPECT_EQ(schedule.kind(5, 2), StepKind::refresh);
    EXPECT_EQ(schedule.count(StepKind::sparse), 4);
    EXPECT_TRUE(schedule.has(StepKind::refresh));
    EXPECT_FALSE(schedule.has(StepKind::dense));
}

TEST(StepSchedule, HeadsWithoutAReferenceGetNothing) {
    for (const SsarMode mode : {SsarMode::none, SsarMode::first, SsarMode::third, SsarMode::svd}) {
        const StepSchedule schedule(sparse(mode), falling(20));
        for (int i = 0; i < 20; ++i) {
            EXPECT_EQ(schedule.correction(i).coefficients[0], (Row{0, 0, 0, 0}));
        }
    }
}

TEST(StepSchedule, CoefficientsFollowTheNewestSlot) {
    const StepSchedule second(sparse(SsarMode::second), falling(30));
    EXPECT_EQ(second.correction(3).coefficients[1], (Row{1, 0, 0, 0}));
    EXPECT_EQ(second.correction(8).coefficients[2], (Row{-1, 2, 0, 0})) << "reference 1, slot 1";
    EXPECT_EQ(second.correction(8).coefficients[1], (Row{0, 1, 0, 0}));
    EXPECT_EQ(second.correction(11).coefficients[2], (Row{2, -1, 0, 0}));

    const StepSchedule third(sparse(SsarMode::third), falling(30));
    EXPECT_EQ(third.correction(11).coefficients[3], (Row{1, -3, 3, 0})) << "D2, D1, D0";
    EXPECT_EQ(third.correction(16).coefficients[3], (Row{3, 1, -3, 0})) << "D0, D2, D1";
    EXPECT_EQ(third.correction(16).coefficients[2], (Row{2, 0, -1, 0}));

    const StepSchedule svd(sparse(SsarMode::svd), falling(30));
    EXPECT_EQ(svd.correction(7).coefficients[1], (Row{1, 0, 0, 0}));
    EXPECT_EQ(svd.correction(7).coefficients[2], (Row{1, 0, 0, 1}));
    const StepSchedule first(sparse(SsarMode::first), falling(30));
    EXPECT_EQ(first.correction(7).coefficients[3], (Row{1, 0, 0, 0}));
}

TEST(StepSchedule, RefreshReadsTheSlotBeforeAndWritesTheOldest) {
    const StepSchedule third(sparse(SsarMode::third), falling(30));
    EXPECT_EQ(third.correction(0).write_slot, 0u);
    EXPECT_EQ(third.correction(15).write_slot, 0u);
    EXPECT_EQ(third.correction(15).read_slot, 2u);
    EXPECT_EQ(third.correction(15).reference, 3u);
    const StepSchedule svd(sparse(SsarMode::svd), falling(30));
    EXPECT_EQ(svd.correction(10).write_slot, 0u);
    EXPECT_EQ(svd.correction(10).read_slot, 0u);
}

TEST(StepSchedule, GainsGrowWithTheDistanceFromTheReference) {
    auto parameters = sparse(SsarMode::svd);
    parameters.ssar_gain = SsarGain::linear;
    EXPECT_FLOAT_EQ(StepSchedule(parameters, falling(30)).correction(8).coefficients[2][3], 0.6f);
    parameters.ssar_span = SsarSpan::adjacent;
    EXPECT_FLOAT_EQ(StepSchedule(parameters, falling(30)).correction(7).coefficients[2][3], 2.0f);
    parameters.ssar_span = SsarSpan::references;
    parameters.ssar_gain = SsarGain::sigma;  // sigma(i) = 1 - i^2 / 1000
    EXPECT_NEAR(StepSchedule(parameters, falling(30)).correction(12).coefficients[2][3],
                (144.0 - 100.0) / (100.0 - 25.0), 1e-4);
    parameters.ssar = SsarMode::third;
    parameters.ssar_gain = SsarGain::linear;  // g = 2/5: 1 + g + g(g+1)/2 = 1.68
    EXPECT_FLOAT_EQ(StepSchedule(parameters, falling(30)).correction(17).coefficients[3][0], 1.68f);
}

}  // namespace
}  // namespace quantsparse::attention
