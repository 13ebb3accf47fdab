// The drift of the attention's residual that calibration records for the runtime.
#include "calib/drift.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "format/model_bundle.hpp"

namespace quantsparse::calib {
namespace {

const std::array<std::int64_t, 3> kGrid = {3, 4, 5};

at::Tensor random_heads(int seed) {
    auto generator = at::detail::createCPUGenerator(static_cast<std::uint64_t>(seed));
    return at::randn({60, 2, 8}, generator, at::kFloat);
}

TEST(DriftRecorder, StandsStillWhereNothingChanges) {
    const auto q = random_heads(1), k = random_heads(2), v = random_heads(3);
    DriftRecorder recorder(2);
    for (const double sigma : {1.0, 0.8, 0.5, 0.2}) {
        for (const std::size_t block : {0u, 1u}) recorder.observe(block, q, k, v, kGrid);
        recorder.end_step(sigma);
    }
    const auto curve = recorder.curve();
    ASSERT_EQ(curve.size(), format::kDriftLevels);
    EXPECT_TRUE(std::all_of(curve.begin(), curve.end(), [](float c) { return c == 0; }));
}

TEST(DriftRecorder, IsTheResidualsChangeRelativeToDenseAttention) {
    // Values twice as large double the residual and dense attention: the change is half of it.
    const auto q = random_heads(1), k = random_heads(2), v = random_heads(3);
    DriftRecorder recorder(1);
    double scale = 1;
    for (const double sigma : {1.0, 0.9, 0.5, 0.2}) {
        recorder.observe(0, q, k, v * scale, kGrid);
        recorder.end_step(sigma);
        scale *= 2;
    }
    const auto curve = recorder.curve();
    ASSERT_EQ(curve.size(), format::kDriftLevels);
    const float step = curve[5];  // sigma 0.9
    EXPECT_EQ(curve[0], 0);
    EXPECT_GT(step, 0.05f);
    EXPECT_NEAR(curve[25], 2 * step, 1e-5);                         // 0.5
    EXPECT_NEAR(curve[15], 1.5 * static_cast<double>(step), 1e-5);  // 0.7, half of the way
    EXPECT_NEAR(curve[49], 3.6 * static_cast<double>(step), 1e-5) << "goes on below the last step";
    EXPECT_TRUE(std::is_sorted(curve.begin(), curve.end()));
}

TEST(DriftRecorder, GivesNothingOfFewStepsOrOtherTokens) {
    const auto q = random_heads(1), k = random_heads(2), v = random_heads(3);
    DriftRecorder few(1), other(1);
    for (const double sigma : {1.0, 0.5, 0.2}) {
        few.observe(0, q, k, v, kGrid);
        few.end_step(sigma);
    }
    for (const double sigma : {1.0, 0.5, 0.2, 0.1}) {
        other.observe(0, q, k, v, {3, 4, 4});
        other.end_step(sigma);
    }
    EXPECT_TRUE(few.curve().empty());
    EXPECT_TRUE(other.curve().empty());
}

}  // namespace
}  // namespace quantsparse::calib
