// Which steps TeaCache reuses, against sums written out by hand.
#include "sampling/step_cache.hpp"

#include <gtest/gtest.h>

#include <string>

namespace quantsparse::sampling {
namespace {

std::string letters(const std::vector<double>& changes, double threshold) {
    std::string text;
    for (const bool reused : reused_steps(changes, threshold)) text += reused ? '-' : 'C';
    return text;
}

TEST(StepCache, ReusesWhileTheChangesAddUpToLessThanTheThreshold) {
    const std::vector<double> changes = {0, 0.1, 0.1, 0.1, 0.3, 0.05, 0.05, 0.05, 0.05, 0.05};
    EXPECT_EQ(letters(changes, 0), "CCCCCCCCCC");
    EXPECT_EQ(letters(changes, 0.15), "C-C-C--C-C");
    EXPECT_EQ(letters(changes, 0.25), "C--CC----C");
    EXPECT_EQ(letters(changes, 100), "C--------C") << "the first and the last are computed";
}

TEST(StepCache, FittedChangesMayBeNegative) {
    EXPECT_EQ(letters({0, 0.1, -0.1, 0.1, 0.1, 0.1, 0.1}, 0.15), "C---C-C");
}

TEST(StepCache, ShortClips) {
    EXPECT_EQ(letters({}, 1), "");
    EXPECT_EQ(letters({0}, 1), "C");
    EXPECT_EQ(letters({0, 0}, 1), "CC");
}

}  // namespace
}  // namespace quantsparse::sampling
