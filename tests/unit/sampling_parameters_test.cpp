#include "pipeline/sampling_parameters.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/parameters.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {
namespace {

GenerationParameters resolved(const GenerationParameters& parameters,
                              format::GenerationDefaults defaults = {}) {
    format::ClipGeometry geometry;
    geometry.patch = {1, 2, 2};
    geometry.time = 4;
    geometry.space = 8;
    return resolve(parameters, defaults, geometry);
}

/// "field: message" of what `check` refuses, or nothing.
std::string refusal(const GenerationParameters& parameters) {
    try {
        check(parameters);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
        return error.field() + ": " + error.what();
    }
    return "";
}

void expect_refused(const GenerationParameters& parameters, const std::string& field,
                    std::initializer_list<const char*> words = {}) {
    const std::string text = refusal(parameters);
    EXPECT_EQ(text.substr(0, text.find(':')), field) << text;
    for (const char* word : words) EXPECT_NE(text.find(word), std::string::npos) << text;
}

// few-step fact 79: what the model receives for LightX2V's list.
TEST(FewSteps, LightX2vIsEulerAtShiftedTimestepsWithoutGuidance) {
    GenerationParameters p;
    p.few_steps = FewSteps::lightx2v_4;
    p = resolved(p);
    EXPECT_EQ(p.sampler, Sampler::euler);
    EXPECT_EQ(p.steps, 4);
    EXPECT_EQ(p.flow_shift, 5);
    EXPECT_EQ(p.guidance_scale, 1);
    const auto scheduler = sampling::make_scheduler(sampler_options(p));
    const std::vector<double> timesteps = {1000, 937.5, 2500.0 / 3, 625};
    for (std::size_t i = 0; i < 4; ++i) {
        EXPECT_NEAR(scheduler->timesteps()[i], timesteps[i], 1e-3);
    }
}

TEST(FewSteps, FastwanIsDmdWithItsTable) {
    GenerationParameters p;
    p.few_steps = FewSteps::fastwan_3;
    p = resolved(p);
    EXPECT_EQ(p.sampler, Sampler::dmd);
    EXPECT_EQ(p.flow_shift, 8);
    const auto scheduler = sampling::make_scheduler(sampler_options(p));
    EXPECT_EQ(scheduler->timesteps(), (std::vector<float>{1000, 757, 522}));
    EXPECT_NEAR(scheduler->sigmas()[1], 0.756757, 1e-6);
}

TEST(FewSteps, TurboIsRcmWithoutAShift) {
    GenerationParameters p;
    p.few_steps = FewSteps::turbo_4;
    p = resolved(p);
    EXPECT_EQ(p.sampler, Sampler::rcm);
    EXPECT_EQ(p.steps, 4);
    EXPECT_FALSE(p.flow_shift);
    EXPECT_EQ(sampling::make_scheduler(sampler_options(p))->timesteps(),
              (std::vector<float>{988, 932, 852, 608}));
}

TEST(FewSteps, WhatIsResolvedResolvesToTheSame) {
    for (const FewSteps name : {FewSteps::lightx2v_4, FewSteps::fastwan_3, FewSteps::turbo_4}) {
        GenerationParameters p;
        p.few_steps = name;
        const auto once = resolved(p), twice = resolved(once);
        EXPECT_EQ(once.sampler, twice.sampler);
        EXPECT_EQ(once.steps, twice.steps);
        EXPECT_EQ(once.flow_shift, twice.flow_shift);
        EXPECT_EQ(once.timesteps, twice.timesteps);
    }
}

TEST(FewSteps, GuidanceAndSeedMayBeOthersWhatElseContradictsIsNamedWithThePreset) {
    GenerationParameters preset;
    preset.few_steps = FewSteps::lightx2v_4;
    auto p = preset;
    p.guidance_scale = 3.5;
    p.seed = 7;
    p.steps = 4;  // what the preset has, too
    EXPECT_EQ(resolved(p).guidance_scale, 3.5);
    p = preset;
    p.steps = 8;
    expect_refused(p, "steps", {"8", "lightx2v-4"});
    p = preset;
    p.sampler = Sampler::lcm;
    expect_refused(p, "sampler", {"lcm", "lightx2v-4", "euler"});
    p = preset;
    p.flow_shift = 3;
    expect_refused(p, "flow_shift", {"3", "lightx2v-4", "5"});
    p = preset;
    p.sigmas = {1, 0.5};
    expect_refused(p, "sigmas", {"0.5", "lightx2v-4"});
    p = preset;
    p.timesteps = {1000, 500};
    expect_refused(p, "timesteps", {"500", "lightx2v-4"});
    p = {};
    p.few_steps = FewSteps::turbo_4;
    p.flow_shift = 5;
    expect_refused(p, "flow_shift", {"5", "turbo-4"});
}

TEST(GivenLevels, AreEulersUnlessASamplerTakesThem) {
    GenerationParameters p;
    p.sigmas = {1, 0.75, 0.5};
    EXPECT_EQ(resolved(p).sampler, Sampler::euler);
    EXPECT_EQ(resolved(p).steps, 3);
    format::GenerationDefaults lcm;
    lcm.sampler = Sampler::lcm;
    EXPECT_EQ(resolved(p, lcm).sampler, Sampler::lcm);
    EXPECT_EQ(resolved(GenerationParameters{}, lcm).sampler, Sampler::lcm);
    p.sampler = Sampler::unipc;
    expect_refused(p, "sigmas", {"unipc", "euler"});
    p.sampler = Sampler::dmd;
    expect_refused(p, "sigmas", {"dmd"});
}

// s' = 3 s / (1 + 2 s).
TEST(GivenLevels, AreShiftedByTheModelsShiftOrTheOneAskedFor) {
    format::GenerationDefaults defaults;
    defaults.flow_shift = 3;
    GenerationParameters p;
    p.timesteps = {1000, 500};
    auto scheduler = sampling::make_scheduler(sampler_options(resolved(p, defaults)));
    EXPECT_FLOAT_EQ(scheduler->sigmas()[1], 0.75f);
    EXPECT_FLOAT_EQ(scheduler->timesteps()[1], 750);
    p.flow_shift = 1;
    scheduler = sampling::make_scheduler(sampler_options(resolved(p, defaults)));
    EXPECT_FLOAT_EQ(scheduler->sigmas()[1], 0.5f);
}

TEST(GivenLevels, ThatMakeNoSenseAreRefusedByTheirField) {
    GenerationParameters p;
    for (const auto& list : std::vector<std::vector<double>>{
             {1.5, 0.5}, {0.5, 0.5}, {0.5, 0.75}, {1, 0.5, 0}, {1, -0.5}, {std::nan("")}}) {
        p.sigmas = list;
        expect_refused(p, "sigmas");
    }
    p.sigmas.clear();
    p.timesteps = {1200, 500};
    expect_refused(p, "timesteps", {"1200"});
    p.timesteps = {1000, 500};
    p.steps = 4;
    expect_refused(p, "timesteps", {"4", "2 steps"});
    p.steps.reset();
    p.sigmas = {1, 0.5};
    expect_refused(p, "sigmas", {"timesteps"});
    p = {};
    p.sigmas.assign(1001, 1);
    expect_refused(p, "sigmas", {"1001"});
}

TEST(Samplers, ThatNeedAListOrHaveTimesOfTheirOwnSaySo) {
    GenerationParameters p;
    p.sampler = Sampler::dmd;
    expect_refused(p, "sampler", {"timesteps"});
    p.timesteps = {1000, 757.5};
    expect_refused(p, "timesteps", {"757.5", "whole"});
    p = {};
    p.sampler = Sampler::rcm;
    EXPECT_EQ(resolved(p).steps, 4);
    p.steps = 5;
    expect_refused(p, "steps", {"5", "4"});
    p.steps = 2;
    EXPECT_EQ(refusal(p), "");
    p.flow_shift = 5;
    expect_refused(p, "flow_shift", {"rcm"});
    p.flow_shift.reset();
    p.steps.reset();
    p.timesteps = {1000, 500};
    expect_refused(p, "timesteps", {"rcm"});
}

}  // namespace
}  // namespace quantsparse::pipeline
