#include "picture_metrics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace quantsparse::video {
namespace {

struct Picture {
    int width, height;
    std::vector<std::uint8_t> rgb;
    PictureView view() const { return {width, height, rgb}; }
};

Picture flat(int width, int height, std::uint8_t value) {
    return {width, height,
            std::vector<std::uint8_t>(static_cast<std::size_t>(3 * width * height), value)};
}

/// Gray stripes of `period` pixels, shifted to the right.
Picture stripes(int width, int height, int period, int shift) {
    Picture picture = flat(width, height, 0);
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const std::uint8_t value = (x + shift) / period % 2 == 0 ? 40 : 210;
            for (int c = 0; c < 3; ++c) {
                picture.rgb[static_cast<std::size_t>(3 * (y * width + x) + c)] = value;
            }
        }
    }
    return picture;
}

TEST(PictureMetrics, EqualPicturesDoNotDiffer) {
    const Picture a = stripes(37, 23, 5, 0);
    EXPECT_EQ(squared_difference(a.view(), a.view()), 0);
    EXPECT_TRUE(std::isinf(psnr(0, 37 * 23 * 3)));
    EXPECT_NEAR(structural_similarity(a.view(), a.view()), 1, 1e-12);
    EXPECT_NEAR(gradient_deviation(a.view(), a.view()), 0, 1e-12);
}

TEST(PictureMetrics, PsnrOfAConstantOffsetIsThatOfTheFormula) {
    const Picture a = flat(19, 13, 100), b = flat(19, 13, 110);
    const double values = 19 * 13 * 3;
    EXPECT_EQ(squared_difference(a.view(), b.view()), 100 * values);
    EXPECT_NEAR(psnr(100 * values, values), 20 * std::log10(255.0 / 10), 1e-12);
}

TEST(PictureMetrics, SimilarityOfFlatPicturesIsItsLuminanceTerm) {
    const Picture a = flat(30, 17, 50), b = flat(30, 17, 200);
    const double c1 = 2.55 * 2.55;
    EXPECT_NEAR(structural_similarity(a.view(), b.view()),
                (2 * 50 * 200 + c1) / (50 * 50 + 200 * 200 + c1), 1e-9);
}

TEST(PictureMetrics, StripesInOppositePhaseHaveNegativeSimilarity) {
    const Picture a = stripes(48, 48, 4, 0), b = stripes(48, 48, 4, 4);
    EXPECT_LT(structural_similarity(a.view(), b.view()), -0.5);
}

TEST(PictureMetrics, GradientDeviationSeesADisplacedEdgeButNoOffset) {
    const Picture a = stripes(64, 48, 16, 0), moved = stripes(64, 48, 16, 6);
    EXPECT_GT(gradient_deviation(a.view(), moved.view()), 0.1);
    EXPECT_NEAR(gradient_deviation(flat(64, 48, 30).view(), flat(64, 48, 90).view()), 0, 1e-12);
}

TEST(PictureMetrics, PicturesSmallerThanTheWindowAreOneWindow) {
    const Picture a = stripes(5, 3, 2, 0), b = stripes(5, 3, 2, 1);
    EXPECT_NEAR(structural_similarity(a.view(), a.view()), 1, 1e-12);
    EXPECT_LT(structural_similarity(a.view(), b.view()), 1);
    EXPECT_TRUE(std::isfinite(gradient_deviation(flat(1, 1, 0).view(), flat(1, 1, 9).view())));
}

}  // namespace
}  // namespace quantsparse::video
