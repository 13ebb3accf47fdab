#include <gtest/gtest.h>

#include <cmath>

#include "sampling/philox.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {
namespace {

using Block = std::array<std::uint32_t, 4>;

// Known answers that come with the generator's publication (Random123, kat_vectors).
TEST(SamplingRandom, PhiloxGivesThePublishedBlocks) {
    EXPECT_EQ(philox_4x32_10({0, 0, 0, 0}, {0, 0}),
              (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    const std::uint32_t ones = 0xffffffff;
    EXPECT_EQ(philox_4x32_10({ones, ones, ones, ones}, {ones, ones}),
              (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    EXPECT_EQ(
        philox_4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
        (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Made by another implementation (Python integers, math.log, math.cos).
TEST(SamplingRandom, NoiseOfASeedIsFixed) {
    std::vector<float> noise(6);
    fill_gaussian(42, noise);
    const std::vector<double> expected = {-0.9701897900197691,  0.19401895535991237,
                                          -1.2356207433180222,  1.9239267497535832,
                                          -0.07318150844555858, 0.1391374963034488};
    for (std::size_t i = 0; i < noise.size(); ++i) {
        EXPECT_FLOAT_EQ(noise[i], static_cast<float>(expected[i])) << i;
    }
    std::vector<float> wide_seed(2);
    fill_gaussian(0x123456789abcdef0, wide_seed);
    EXPECT_FLOAT_EQ(wide_seed[0], -2.5333255268986608f);
    EXPECT_FLOAT_EQ(wide_seed[1], 0.4897107674052956f);
}

TEST(SamplingRandom, AShorterStreamIsAPrefixOfALongerOne) {
    std::vector<float> whole(64);
    fill_gaussian(7, whole);
    for (const std::size_t count : {0, 1, 2, 3, 5, 62}) {
        std::vector<float> part(count);
        fill_gaussian(7, part);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin())) << count;
    }
}

TEST(SamplingRandom, MomentsAreThoseOfAStandardNormal) {
    constexpr std::size_t kCount = 1'000'000;
    std::vector<float> noise(kCount);
    fill_gaussian(2024, noise);
    double mean = 0, square = 0, cube = 0, fourth = 0, neighbours = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
        const double x = noise[i];
        mean += x;
        square += x * x;
        cube += x * x * x;
        fourth += x * x * x * x;
        neighbours += i > 0 ? x * noise[i - 1] : 0;
    }
    // Five standard errors each: 1, 2, 15, 96 and 1 are the variances of the summands.
    const double sigma = 5 / std::sqrt(static_cast<double>(kCount));
    EXPECT_NEAR(mean / kCount, 0, sigma);
    EXPECT_NEAR(square / kCount, 1, sigma * std::sqrt(2.0));
    EXPECT_NEAR(cube / kCount, 0, sigma * std::sqrt(15.0));
    EXPECT_NEAR(fourth / kCount, 3, sigma * std::sqrt(96.0));
    EXPECT_NEAR(neighbours / kCount, 0, sigma);
}

TEST(SamplingRandom, NeighbouringSeedsAreUnrelated) {
    std::vector<float> one(100'000), two(100'000);
    fill_gaussian(1, one);
    fill_gaussian(2, two);
    double product = 0;
    for (std::size_t i = 0; i < one.size(); ++i) {
        product += static_cast<double>(one[i]) * two[i];
    }
    EXPECT_NEAR(product / static_cast<double>(one.size()), 0, 5 / std::sqrt(1e5));
}

}  // namespace
}  // namespace quantsparse::sampling
