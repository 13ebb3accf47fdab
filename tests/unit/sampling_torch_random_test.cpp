#include "sampling/torch_random.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "sampling/noise.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {
namespace {

// Made with PyTorch 1.13 on a CPU: torch.randn(n, generator=torch.Generator().manual_seed(seed)).
struct Reference {
    std::uint64_t seed;
    std::vector<float> values;
};

void expect_near(const std::vector<float>& ours, const std::vector<float>& reference) {
    ASSERT_EQ(ours.size(), reference.size());
    for (std::size_t i = 0; i < ours.size(); ++i) {
        EXPECT_NEAR(ours[i], reference[i], 1e-6) << i;
    }
}

std::vector<float> normals(TorchGenerator& generator, std::size_t count) {
    std::vector<float> values(count);
    generator.fill_gaussian(values);
    return values;
}

TEST(TorchRandom, GivesWhatTorchGivesForWholeBlocksRestsAndShortTensors) {
    const std::vector<Reference> references = {
        {0,
         {-1.12583983f, -1.1523602f, -0.250578582f, -0.433878809f, 0.848710358f, 0.692009151f,
          -0.31601277f, -2.11521935f, 0.322274923f, -1.26333475f, 0.349983186f, 0.30813393f,
          0.119841509f, 1.2376579f, 1.11677718f, -0.247278154f}},
        {7,
         {-0.820134521f, 0.395631164f,  0.898908496f, -1.38840389f,  -0.166996017f, 0.285149962f,
          -0.641091526f, -0.893655419f, 0.926542997f, -0.535512209f, -1.1597203f,   -0.460157156f,
          0.708539069f,  1.01275539f,   0.230396867f, 1.09016514f,   -1.58266461f,  -0.324566633f,
          1.92636812f,   -0.330011725f, 0.198445052f, -0.661867559f, -0.828452051f, -0.605680287f,
          -0.135436893f, 0.747118235f,  0.611815751f, 1.86778355f,   2.51160288f,   -0.25013262f,
          0.501121461f,  0.2600362f,    -1.6370213f,  0.157711908f,  0.395740926f,  -1.36773968f,
          -0.100734316f}},
        {3,
         {0.803276062f, 0.174833387f, 0.0889780968f, -0.613718033f, 0.0461824499f, -1.36825919f,
          0.337495089f, 1.01111591f, -1.43517935f, 0.977431774f, 0.522049963f, 1.23791671f,
          -0.864635587f, 0.298960835f, 0.419218659f}},
    };
    for (const Reference& reference : references) {
        TorchGenerator generator(reference.seed);
        expect_near(normals(generator, reference.values.size()), reference.values);
    }
}

TEST(TorchRandom, TheSeedsLowerHalfCounts) {
    TorchGenerator five(5 + (std::uint64_t{1} << 32)), largest(~std::uint64_t{0});
    expect_near(normals(five, 5),
                {-0.486780763f, -0.603821576f, -0.55809623f, 0.667524278f, -0.197415099f});
    expect_near(normals(largest, 16),
                {-2.66429758f, -1.0910486f, 0.451447427f, 0.228360698f, 1.89861786f, 1.56420887f,
                 -1.2553997f, 0.793644249f, -1.75149465f, -0.709674716f, 1.21826625f, 0.222246468f,
                 -2.51588416f, 0.483752221f, 0.841786563f, 0.140909612f});
}

TEST(TorchRandom, ATensorOfAClipsSizeIsThatOfTorch) {
    // torch.randn(1, 16, 21, 60, 104), seed 2024: sum, sum of squares, some values.
    TorchGenerator generator(2024);
    const auto latent = normals(generator, 16 * 21 * 60 * 104);
    double sum = 0, squares = 0;
    for (const double value : latent) {
        sum += value;
        squares += value * value;
    }
    EXPECT_NEAR(sum, -362.7127090189326, 1e-3);
    EXPECT_NEAR(squares, 2095890.586281191, 1e-1);
    expect_near({latent.begin() + 1000, latent.begin() + 1003},
                {0.943391621f, 1.37951362f, 1.07099867f});
    expect_near({latent.end() - 3, latent.end()}, {0.674527407f, -1.34323907f, -0.363487452f});
}

// Seed 9: randn(20), randn(3), randn(2), randn(16), randn(1) of one generator.
TEST(TorchRandom, CallsGoOnWhereTheLastOneEnded) {
    TorchGenerator generator(9);
    EXPECT_NEAR(normals(generator, 20).back(), 0.968322575, 1e-6);
    expect_near(normals(generator, 3), {1.2812227f, -0.229570001f, -0.686994851f});
    expect_near(normals(generator, 2), {-0.0226072539f, -0.775595665f});
    EXPECT_NEAR(normals(generator, 16).back(), -0.666597068f, 1e-6);
    expect_near(normals(generator, 1), {1.31703162f});
}

TEST(NoiseSource, OfPhiloxTakesANewStreamWithEachCall) {
    NoiseSource source(Rng::philox, 11);
    for (const std::uint32_t stream : {0u, 1u, 2u}) {
        std::vector<float> ours(20), reference(20);
        source.fill(ours);
        fill_gaussian(11, reference, stream);
        EXPECT_EQ(ours, reference);
    }
}

TEST(NoiseSource, OfTorchIsTheGenerator) {
    NoiseSource source(Rng::torch, 9);
    std::vector<float> first(20), second(3);
    source.fill(first);
    source.fill(second);
    expect_near(second, {1.2812227f, -0.229570001f, -0.686994851f});
}

}  // namespace
}  // namespace quantsparse::sampling
