// The schedule of dense, refresh and sparse steps, against sequences written out by hand.
#include "attention/step_schedule.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <optional>
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

std::vector<int> refreshes(const StepSchedule& schedule) {
    std::vector<int> steps;
    for (int i = 0; i < schedule.steps(); ++i) {
        if (schedule.kind(i) == StepKind::refresh) steps.push_back(i);
    }
    return steps;
}

/// Levels that begin evenly and are moved by the flow shift.
std::vector<float> flow_levels(int steps, double shift) {
    std::vector<float> sigmas;
    for (int i = 0; i < steps; ++i) {
        const double s = 1 - static_cast<double>(i) / steps;
        sigmas.push_back(static_cast<float>(shift * s / (1 + (shift - 1) * s)));
    }
    return sigmas;
}

/// Where refreshes are placed when nobody says where.
std::vector<int> placed(int steps, std::optional<int> count = {}, double shift = 3,
                        bool fresh_noise = false) {
    AttentionParameters parameters;
    parameters.kind = AttentionKind::sparse;
    parameters.refreshes = count;
    Drift drift;
    drift.fresh_noise = fresh_noise;
    return refreshes(StepSchedule(parameters, flow_levels(steps, shift), {}, drift));
}

using Steps = std::vector<int>;

// The sets that were best of all that were tried, in latent SNR against dense attention.
TEST(StepSchedule, PlacesRefreshesWhereTheyWereMeasuredToBeBest) {
    EXPECT_EQ(placed(4), (Steps{0, 2}));
    EXPECT_EQ(placed(6), (Steps{0, 3}));
    EXPECT_EQ(placed(8), (Steps{0, 4}));
    // With lcm other sets are best: what early steps predict is all that the next ones begin with.
    EXPECT_EQ(placed(4, {}, 3, true), (Steps{0, 1}));
    EXPECT_EQ(placed(6, {}, 3, true), (Steps{0, 2}));
    EXPECT_EQ(placed(8, {}, 3, true), (Steps{0, 3}));
    // All sets of so many were compared by a program of its own.
    EXPECT_EQ(placed(8, 3), (Steps{0, 3, 6}));
    EXPECT_EQ(placed(20, 4), (Steps{0, 5, 11, 16}));
    EXPECT_EQ(placed(8, 2, 5), (Steps{0, 5})) << "a higher shift leaves more to the last steps";
}

TEST(StepSchedule, PlacesAsManyAsAnIntervalOfFiveButTwoFromFourStepsOn) {
    for (const auto& [steps, count] :
         {std::pair{1, 1}, {3, 1}, {4, 2}, {8, 2}, {10, 2}, {11, 3}, {20, 4}, {50, 10}}) {
        EXPECT_EQ(placed(steps).size(), static_cast<std::size_t>(count)) << steps;
    }
    EXPECT_EQ(placed(4, 4), (Steps{0, 1, 2, 3}));
    EXPECT_EQ(placed(4, 9), (Steps{0, 1, 2, 3}));
}

TEST(RefreshPlan, IsEvenWhereDriftAndStepsAre) {
    std::vector<RefreshStep> steps;
    for (int i = 0; i < 20; ++i) steps.push_back({0.05, 0.1 * i});
    EXPECT_EQ(place_refreshes(steps, 4), (Steps{0, 5, 10, 15}));
    EXPECT_EQ(place_refreshes(steps, 2), (Steps{0, 10}));
    EXPECT_EQ(place_refreshes(std::span(steps).first(6), 3), (Steps{0, 2, 4}));
    EXPECT_EQ(place_refreshes(steps, 1), (Steps{0}));
    EXPECT_EQ(place_refreshes({}, 2), Steps{});
}

TEST(RefreshPlan, FindsTheBestOfAllSets) {
    const std::vector<double> weights = {.1, .05, .3, .02, .2, .1, .15, .08};
    const std::vector<double> drifts = {0, .5, .6, .9, .91, 1.4, 1.5, 1.9};
    std::vector<RefreshStep> steps;
    for (std::size_t i = 0; i < weights.size(); ++i) steps.push_back({weights[i], drifts[i]});
    const auto error = [&](unsigned set) {  // bit i: step i is a refresh
        double sum = 0, reference = 0;
        for (std::size_t i = 0; i < steps.size(); ++i) {
            if (set >> i & 1) {
                reference = drifts[i];
            } else {
                sum += weights[i] * (drifts[i] - reference);
            }
        }
        return sum;
    };
    for (int count = 1; count <= 8; ++count) {
        double least = 1e9;
        for (unsigned set = 1; set < 256; set += 2) {
            if (std::popcount(set) == count) least = std::min(least, error(set));
        }
        unsigned found = 0;
        for (const int step : place_refreshes(steps, count)) found |= 1u << step;
        EXPECT_EQ(std::popcount(found), count);
        EXPECT_NEAR(error(found), least, 1e-12) << count;
    }
}

TEST(StepSchedule, TakesAListOfRefreshes) {
    auto parameters = sparse(SsarMode::first);
    parameters.refresh_interval.reset();
    parameters.refresh_steps = {0, 1, 4};
    EXPECT_EQ(letters(parameters, 8), "RRssRsss");
    // A step that is reused has nothing to refresh.
    const StepSchedule reused(parameters, falling(8),
                              {false, true, false, false, true, true, false, false});
    EXPECT_EQ(letters(reused), "R-Rs--Rs");
}

TEST(StepSchedule, PlacesAmongTheStepsThatAreNotReused) {
    AttentionParameters parameters;
    parameters.kind = AttentionKind::sparse;
    std::vector<bool> reused(8, false);
    for (const std::size_t step : {1u, 3u, 5u, 7u}) reused[step] = true;
    // Two steps count as one of twice the length: as four steps of their own.
    const StepSchedule eight(parameters, flow_levels(8, 3), reused);
    EXPECT_EQ(letters(eight), "R-s-R-s-");
    EXPECT_EQ(letters(StepSchedule(parameters, flow_levels(4, 3))), "RsRs");
}

TEST(StepSchedule, CorrectsToFirstOrderWhereTwoReferencesAreTooMany) {
    AttentionParameters parameters;
    parameters.kind = AttentionKind::sparse;
    EXPECT_EQ(StepSchedule(parameters, falling(7)).parameters().ssar, SsarMode::first);
    EXPECT_EQ(StepSchedule(parameters, falling(8)).parameters().ssar, SsarMode::svd);
    parameters.ssar = SsarMode::svd;
    EXPECT_EQ(StepSchedule(parameters, falling(4)).parameters().ssar, SsarMode::svd);
}

TEST(DriftCurve, IsReadBetweenItsLevels) {
    DriftCurve curve{};
    curve[1] = 2;
    curve[2] = 3;
    curve[49] = 7;
    EXPECT_DOUBLE_EQ(drift_at(curve, 1), 0);
    EXPECT_NEAR(drift_at(curve, 0.99), 1, 1e-9);
    EXPECT_NEAR(drift_at(curve, 0.97), 2.5, 1e-9);
    EXPECT_DOUBLE_EQ(drift_at(curve, 0.001), 7);
    EXPECT_TRUE(std::is_sorted(usual_drift().begin(), usual_drift().end()));
}

}  // namespace
}  // namespace quantsparse::attention
