#include <gtest/gtest.h>

#include <cmath>

#include "quantsparse/error.hpp"
#include "sampling/schedules.hpp"

namespace quantsparse::sampling {
namespace {

TEST(SamplingSchedule, UnipcTruncatesTimestepsAndStartsBelowOne) {
    const Schedule schedule = make_schedule(Sampler::unipc, 5, 3);
    EXPECT_EQ(schedule.timesteps, (std::vector<float>{999, 922, 817, 666, 428}));
    ASSERT_EQ(schedule.sigmas.size(), 6u);
    EXPECT_FLOAT_EQ(schedule.sigmas.front(), 0.9996664524078369f);
    EXPECT_EQ(schedule.sigmas.back(), 0.0f);
}

TEST(SamplingSchedule, DpmppTruncatesTheValueBeforeFloatRounding) {
    // 874.9999999999999 in double: 875 after rounding to float, 874 truncated before it.
    const Schedule twenty = make_schedule(Sampler::dpmpp, 20, 3);
    EXPECT_EQ(twenty.timesteps[0], 1000);
    EXPECT_EQ(twenty.timesteps[6], 874);
    EXPECT_EQ(twenty.timesteps[18], 249);
    const Schedule fifty = make_schedule(Sampler::dpmpp, 50, 3);
    EXPECT_EQ(fifty.timesteps[15], 874);
    EXPECT_EQ(fifty.timesteps[45], 249);
    EXPECT_EQ(fifty.sigmas[0], 1.0f);
}

TEST(SamplingSchedule, EulerKeepsFractionalTimesteps) {
    const Schedule schedule = make_schedule(Sampler::euler, 5, 5);
    EXPECT_FLOAT_EQ(schedule.timesteps[1], 952.3809814453125f);
    EXPECT_FLOAT_EQ(schedule.timesteps[4], 555.5556030273438f);
}

TEST(SamplingSchedule, FallsMonotonicallyForEveryShift) {
    for (const Sampler kind : {Sampler::unipc, Sampler::dpmpp, Sampler::euler}) {
        for (const double shift : {1e-12, 0.3, 1.0, 8.0, 1e6}) {
            const Schedule schedule = make_schedule(kind, 37, shift);
            for (std::size_t i = 0; i + 1 < schedule.sigmas.size(); ++i) {
                EXPECT_GE(schedule.sigmas[i], schedule.sigmas[i + 1]) << shift << " at " << i;
                EXPECT_LE(schedule.sigmas[i], 1.0f);
            }
        }
    }
}

TEST(SamplingSchedule, RejectsImpossibleStepsAndShifts) {
    EXPECT_THROW(make_schedule(Sampler::unipc, 0, 5), Error);
    EXPECT_THROW(make_schedule(Sampler::unipc, -3, 5), Error);
    EXPECT_THROW(make_schedule(Sampler::euler, 1001, 5), Error);
    EXPECT_THROW(make_schedule(Sampler::dpmpp, 10, 0), Error);
    EXPECT_THROW(make_schedule(Sampler::dpmpp, 10, -1), Error);
    EXPECT_THROW(make_schedule(Sampler::dpmpp, 10, std::nan("")), Error);
}

}  // namespace
}  // namespace quantsparse::sampling
