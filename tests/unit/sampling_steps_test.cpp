#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/scheduler.hpp"
#include "sampling/unipc.hpp"

namespace quantsparse::sampling {
namespace {

constexpr std::array kKinds = {Sampler::unipc, Sampler::dpmpp, Sampler::euler};

// One element of the trajectories that the published reference makes in double, 5 steps, shift 3,
// under the velocity v = 0.3 x + 0.1 sin(6.28 t / 1000) + 0.7 p.
struct ReferencePath {
    Sampler kind;
    float x;
    float p;
    std::array<double, 5> path;
};

constexpr std::array<ReferencePath, 3> kReference = {{
    {Sampler::unipc,
     -0.13586638867855072f,
     -0.6323444247245789f,
     {-0.09859838010553602, -0.04265646943459454, 0.04298152625718328, 0.15994851169820307,
      0.31019353797650473}},
    {Sampler::dpmpp,
     1.84958815574646f,
     -1.4212895631790161f,
     {1.8834608289336978, 1.9334579959423508, 2.011960110611037, 2.1219844277771287,
      2.256758663231762}},
    {Sampler::euler,
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

double final_error(Sampler kind, int steps, double shift) {
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
    const double euler = final_error(Sampler::euler, 80, 3);
    EXPECT_GT(final_error(Sampler::euler, 40, 3) / euler, 1.8);
    EXPECT_LT(euler, 0.05);
    for (const Sampler kind : {Sampler::unipc, Sampler::dpmpp}) {
        EXPECT_LT(final_error(kind, 80, 3), euler / 4) << static_cast<int>(kind);
        EXPECT_GT(final_error(kind, 20, 3) / final_error(kind, 80, 3), 5) << static_cast<int>(kind);
    }
}

TEST(SamplingSteps, LandOnTheDataWhenTheModelAlwaysPredictsIt) {
    // v = (x - data) / sigma makes every data prediction equal: whatever the order, one answer.
    for (const Sampler kind : kKinds) {
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
    UnipcScheduler scheduler({Sampler::unipc, 4, Prediction::velocity, FlowShift{5}, 0, 0, {}});
    std::vector<float> sample = {1};
    const std::vector<float> velocity = {0.25f};
    for (const int order : {1, 2, 2, 1}) {
        scheduler.step(sample, velocity);
        EXPECT_EQ(scheduler.order(), order);
    }
}

TEST(SamplingSteps, RejectOneStepTooManyAndChangingSizes) {
    for (const Sampler kind : kKinds) {
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

// The noise's own prediction, told as velocity and as epsilon, moves the sample alike.
TEST(SamplingSteps, EpsilonAndVelocityOfOneFieldGiveOneTrajectory) {
    for (const Sampler kind : {Sampler::euler, Sampler::dpmpp, Sampler::lcm}) {
        std::vector<std::vector<float>> ends;
        for (const Prediction prediction : {Prediction::velocity, Prediction::epsilon}) {
            SamplerOptions options;
            options.kind = kind;
            options.prediction = prediction;
            options.steps = 6;
            options.noise = FlowShift{3};
            if (kind != Sampler::dpmpp) options.noise = GivenSigmas{{0.9, 0.7, 0.4, 0.2}, 1.5};
            const auto scheduler = make_scheduler(options);
            std::vector<float> x = {0.3f, -1.2f, 2.0f};
            for (int i = 0; i < scheduler->steps(); ++i) {
                const double sigma = scheduler->sigmas()[static_cast<std::size_t>(i)];
                std::vector<float> out;
                for (const float value : x) {
                    // Data is always 0.5; at sigma 1 that can't be told from the noise.
                    const double epsilon = (value - (1 - sigma) * 0.5) / sigma;
                    out.push_back(static_cast<float>(
                        prediction == Prediction::epsilon ? epsilon : epsilon - 0.5));
                }
                scheduler->step(x, out);
            }
            ends.push_back(x);
        }
        for (std::size_t k = 0; k < 3; ++k) {
            EXPECT_NEAR(ends[0][k], ends[1][k], kind == Sampler::dpmpp ? 2e-3 : 1e-5);
        }
    }
}

TEST(SamplingSteps, GivenLevelsMustFallAndSuitTheSampler) {
    const auto with = [](Sampler kind, std::vector<double> sigmas) {
        return [=] {
            make_scheduler({kind, 0, Prediction::velocity, GivenSigmas{sigmas}, 0, 0, {}});
        };
    };
    EXPECT_NO_THROW(with(Sampler::euler, {1, 0.5})());
    EXPECT_THROW(with(Sampler::unipc, {1, 0.5})(), Error);
    EXPECT_THROW(with(Sampler::euler, {0.5, 0.5})(), Error);
    EXPECT_THROW(with(Sampler::euler, {1.1, 0.5})(), Error);
    EXPECT_THROW(with(Sampler::lcm, {0.5, 0})(), Error);
    EXPECT_THROW(with(Sampler::lcm, {})(), Error);
}

TEST(SamplingSteps, KindsOfLevelsSamplersAndPredictionsGoTogether) {
    const auto refused = [](Sampler kind, Prediction prediction, bool betas, double eta = 0) {
        SamplerOptions options;
        options.kind = kind;
        options.prediction = prediction;
        options.eta = eta;
        if (betas) options.noise = Betas{};
        EXPECT_THROW(make_scheduler(options), Error);
    };
    refused(Sampler::ddim, Prediction::v, false);
    refused(Sampler::euler, Prediction::epsilon, true);
    refused(Sampler::ddim, Prediction::velocity, true);
    refused(Sampler::euler, Prediction::v, false);
    refused(Sampler::ddim, Prediction::v, true, 1.5);
}

// One field told as noise and as v moves the sample alike, with and without fresh noise.
TEST(SamplingSteps, DdimTakesEpsilonAndV) {
    for (const double eta : {0.0, 0.5, 1.0}) {
        std::vector<std::vector<float>> ends;
        for (const Prediction prediction : {Prediction::epsilon, Prediction::v}) {
            SamplerOptions options;
            options.kind = Sampler::ddim;
            options.steps = 5;
            options.noise = Betas{};
            options.eta = eta;
            options.prediction = prediction;
            options.seed = 3;
            const auto scheduler = make_scheduler(options);
            std::vector<float> x = {0.4f, -1.1f, 2.2f};
            for (int i = 0; i < 5; ++i) {
                const double sigma = scheduler->sigmas()[static_cast<std::size_t>(i)];
                const double signal = std::sqrt(1 - sigma * sigma);
                std::vector<float> out;
                for (const float value : x) {
                    const double data = 0.5, epsilon = (value - signal * data) / sigma;
                    out.push_back(static_cast<float>(prediction == Prediction::epsilon
                                                         ? epsilon
                                                         : signal * epsilon - sigma * data));
                }
                scheduler->step(x, out);
            }
            ends.push_back(x);
        }
        for (std::size_t k = 0; k < 3; ++k) {
            EXPECT_NEAR(ends[0][k], ends[1][k], 1e-3);
            EXPECT_NEAR(ends[0][k], 0.5, 1e-3);  // the last step keeps the data alone
        }
    }
}

TEST(SamplingSteps, LcmDrawsOtherNoiseInEachStepAndTheSameForASeed) {
    const auto run = [](std::uint64_t seed) {
        SamplerOptions options;
        options.kind = Sampler::lcm;
        options.steps = 3;
        options.seed = seed;
        const auto scheduler = make_scheduler(options);
        std::vector<std::vector<float>> states(1, std::vector<float>(8, 0.0f));
        for (int i = 0; i < 3; ++i) {
            states.push_back(states.back());
            // x - sigma v = 0: nothing but the noise is left.
            std::vector<float> v = states.back();
            for (float& value : v) {
                value /= scheduler->sigmas()[static_cast<std::size_t>(i)];
            }
            scheduler->step(states.back(), v);
        }
        return states;
    };
    const auto first = run(5), again = run(5), other = run(6);
    EXPECT_EQ(first, again);
    EXPECT_NE(first[1], other[1]);
    EXPECT_NE(first[1], first[2]);
    for (const float value : first[3]) {
        EXPECT_NEAR(value, 0, 1e-6);
    }
}

std::unique_ptr<Scheduler> scheduler_with(Sampler kind, decltype(SamplerOptions::noise) noise,
                                          int steps = 4) {
    SamplerOptions options;
    options.kind = kind;
    options.steps = steps;
    options.noise = std::move(noise);
    return make_scheduler(options);
}

// few-step fact 81.
TEST(SamplingSteps, DmdGivesTheModelWholeTimestepsAndLooksLevelsUp) {
    const auto fastwan = scheduler_with(Sampler::dmd, TableTimesteps{{1000, 757, 522}, 8});
    EXPECT_EQ(fastwan->timesteps(), (std::vector<float>{1000, 757, 522}));
    EXPECT_NEAR(fastwan->sigmas()[1], 28.0 / 37, 1e-6);  // 8 s / (1 + 7 s) at s = 0.28
    EXPECT_NEAR(fastwan->sigmas()[2], 12.0 / 23, 1e-6);  // at s = 0.12
    EXPECT_EQ(fastwan->sigmas()[3], 0);
    const auto plain = scheduler_with(Sampler::dmd, TableTimesteps{{1000, 250}, 1});
    EXPECT_FLOAT_EQ(plain->sigmas()[1], 0.25f);
    for (const auto& list : std::vector<std::vector<double>>{
             {}, {1000, 757.5}, {500, 500}, {1001}, {0.5}, {1000, 0}}) {
        EXPECT_THROW(scheduler_with(Sampler::dmd, TableTimesteps{list, 8}), Error);
    }
    EXPECT_THROW(scheduler_with(Sampler::dmd, FlowShift{8}), Error);
    EXPECT_THROW(scheduler_with(Sampler::euler, TableTimesteps{{1000}, 8}), Error);
}

// few-step fact 82.
TEST(SamplingSteps, RcmScalesTheFirstNoiseAndRoundsTimestepsToBf16) {
    const auto turbo = scheduler_with(Sampler::rcm, RcmTimes{});
    EXPECT_EQ(turbo->timesteps(), (std::vector<float>{988, 932, 852, 608}));
    const std::vector<double> sigmas = {0.98765, 0.93378, 0.85290, 0.60898, 0};
    for (std::size_t i = 0; i < sigmas.size(); ++i) {
        EXPECT_NEAR(turbo->sigmas()[i], sigmas[i], 6e-6);
    }
    std::vector<float> sample = {2, -1};
    turbo->start(sample);
    EXPECT_FLOAT_EQ(sample[0], 2 * turbo->sigmas()[0]);
    EXPECT_FLOAT_EQ(sample[1], -turbo->sigmas()[0]);
    EXPECT_EQ(scheduler_with(Sampler::rcm, RcmTimes{}, 2)->steps(), 2);
    EXPECT_THROW(scheduler_with(Sampler::rcm, RcmTimes{}, 5), Error);
    EXPECT_THROW(scheduler_with(Sampler::rcm, RcmTimes{}, 0), Error);
    EXPECT_THROW(scheduler_with(Sampler::rcm, RcmTimes{1.0}), Error);
    EXPECT_THROW(scheduler_with(Sampler::rcm, FlowShift{5}), Error);
}

TEST(SamplingSteps, OthersBeginWithTheNoiseAsItIs) {
    std::vector<float> noise = {2, -1};
    for (const Sampler kind : kKinds) {
        make_scheduler(kind, 2, 5)->start(noise);
        EXPECT_EQ(noise, (std::vector<float>{2, -1}));
    }
}

}  // namespace
}  // namespace quantsparse::sampling
