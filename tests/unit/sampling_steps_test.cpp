#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/scheduler.hpp"
#include "sampling/unipc.hpp"

namespace quantsparse::sampling {
namespace {

constexpr std::array kKinds = {SamplerKind::unipc, SamplerKind::dpmpp, SamplerKind::euler};

// One element of the trajectories that the published reference makes in double, 5 steps, shift 3,
// under the velocity v = 0.3 x + 0.1 sin(6.28 t / 1000) + 0.7 p.
struct ReferencePath {
    SamplerKind kind;
    float x;
    float p;
    std::array<double, 5> path;
};

constexpr std::array<ReferencePath, 3> kReference = {{
    {SamplerKind::unipc,
     -0.13586638867855072f,
     -0.6323444247245789f,
     {-0.09859838010553602, -0.04265646943459454, 0.04298152625718328, 0.15994851169820307,
      0.31019353797650473}},
    {SamplerKind::dpmpp,
     1.84958815574646f,
     -1.4212895631790161f,
     {1.8834608289336978, 1.9334579959423508, 2.011960110611037, 2.1219844277771287,
      2.256758663231762}},
    {SamplerKind::euler,
     1.0015366077423096f,
     1.1085059642791748f,
     {0.9187599490501216, 0.8133561259744225, 0.6726152615976692, 0.46041463369092106,
      0.05001896450104615}},
}};

TEST(SamplingSteps, FollowTheReferenceTrajectories) {
    for (const ReferencePath& reference : kReference) {
        const auto scheduler = make_scheduler(reference.kind, 5, 3);
        std::vector<float> sample = {reference.x};
        for (int i = 0; i < 5; ++i) {
            const float wave = static_cast<float>(
                std::sin(6.28 * static_cast<double>(scheduler->timesteps()[i]) / 1000));
            const std::vector<float> velocity = {0.3f * sample[0] + 0.1f * wave +
                                                 0.7f * reference.p};
            scheduler->step(sample, velocity);
            EXPECT_NEAR(sample[0], reference.path[i], 1e-6)
                << "sampler " << static_cast<int>(reference.kind) << " step " << i;
        }
    }
}

// Data distributed as N(mean, deviation^2): the flow has a closed form, and so has its velocity.
constexpr double kMean = 0.4;
constexpr double kDeviation = 0.35;

double gaussian_velocity(double x, double sigma) {
    const double variance = (1 - sigma) * (1 - sigma) * kDeviation * kDeviation + sigma * sigma;
    const double gain = ((1 - sigma) * kDeviation * kDeviation - sigma) / variance;
    return -kMean - gain * (x - (1 - sigma) * kMean);
}

double final_error(SamplerKind kind, int steps, double shift) {
    const auto scheduler = make_scheduler(kind, steps, shift);
    std::vector<float> sample = {-1.3f, 0.2f, 2.1f};
    std::vector<double> exact;
    const double first = scheduler->sigmas()[0];
    const double spread = std::hypot((1 - first) * kDeviation, first);
    for (const float x : sample) {
        exact.push_back(kMean + kDeviation * (x - (1 - first) * kMean) / spread);
    }
    for (int i = 0; i < steps; ++i) {
        std::vector<float> velocity;
        for (const float x : sample) {
            velocity.push_back(static_cast<float>(gaussian_velocity(x, scheduler->sigmas()[i])));
        }
        scheduler->step(sample, velocity);
    }
    double worst = 0;
    for (std::size_t k = 0; k < sample.size(); ++k) {
        worst = std::max(worst, std::abs(sample[k] - exact[k]));
    }
    return worst;
}

TEST(SamplingSteps, SecondOrderSamplersConvergeFasterThanEulerOnAGaussian) {
    const double euler = final_error(SamplerKind::euler, 80, 3);
    EXPECT_GT(final_error(SamplerKind::euler, 40, 3) / euler, 1.8);
    EXPECT_LT(euler, 0.05);
    for (const SamplerKind kind : {SamplerKind::unipc, SamplerKind::dpmpp}) {
        EXPECT_LT(final_error(kind, 80, 3), euler / 4) << static_cast<int>(kind);
        EXPECT_GT(final_error(kind, 20, 3) / final_error(kind, 80, 3), 5) << static_cast<int>(kind);
    }
}

TEST(SamplingSteps, LandOnTheDataWhenTheModelAlwaysPredictsIt) {
    // v = (x - data) / sigma makes every data prediction equal: whatever the order, one answer.
    for (const SamplerKind kind : kKinds) {
        for (const int steps : {1, 2, 3, 4, 11, 1000}) {
            for (const double shift : {1e-3, 0.5, 1.0, 3.0, 12.0, 1e6, 1e12}) {
                const auto scheduler = make_scheduler(kind, steps, shift);
                std::vector<float> sample = {1.5f};
                for (int i = 0; i < steps; ++i) {
                    const float sigma = scheduler->sigmas()[i];
                    const std::vector<float> velocity = {(sample[0] - 0.75f) / sigma};
                    scheduler->step(sample, velocity);
                    ASSERT_TRUE(std::isfinite(sample[0]));
                }
                EXPECT_NEAR(sample[0], 0.75f, 1e-3) << "sampler " << static_cast<int>(kind) << ", "
                                                    << steps << " steps, shift " << shift;
            }
        }
    }
}

TEST(SamplingSteps, UnipcUsesOrderOneAtBothEnds) {
    UnipcScheduler scheduler(4, 5);
    std::vector<float> sample = {1};
    const std::vector<float> velocity = {0.25f};
    for (const int order : {1, 2, 2, 1}) {
        scheduler.step(sample, velocity);
        EXPECT_EQ(scheduler.order(), order);
    }
}

TEST(SamplingSteps, RejectOneStepTooManyAndChangingSizes) {
    for (const SamplerKind kind : kKinds) {
        const auto scheduler = make_scheduler(kind, 2, 5);
        std::vector<float> sample = {1, 2};
        EXPECT_THROW(scheduler->step(sample, std::vector<float>{1}), Error);
        const auto another = make_scheduler(kind, 2, 5);
        another->step(sample, std::vector<float>{1, 1});
        std::vector<float> shorter = {1};
        EXPECT_THROW(another->step(shorter, std::vector<float>{1}), Error);
        another->step(sample, std::vector<float>{1, 1});
        EXPECT_THROW(another->step(sample, std::vector<float>{1, 1}), Error);
    }
}

TEST(SamplingGuidance, ExtrapolatesFromTheUnconditionalVelocity) {
    std::vector<float> cond = {1, 2, -1};
    apply_guidance(cond, std::vector<float>{0.5f, 2, 1}, 4);
    EXPECT_EQ(cond, (std::vector<float>{2.5f, 2, -7}));
    EXPECT_THROW(apply_guidance(cond, std::vector<float>{1}, 4), Error);
}

}  // namespace
}  // namespace quantsparse::sampling
