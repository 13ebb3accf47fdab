#include "format/scheduler_config.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/format_support.hpp"

namespace quantsparse::format {
namespace {

using test::expect_error;

struct Read {
    GenerationDefaults defaults;
    std::vector<std::string> warnings;
};

class SchedulerConfig : public testing::Test {
  protected:
    Read read(const std::string& text, const char* index = "{}") {
        test::write_text(folder_ / "scheduler_config.json", text);
        Read result;
        result.warnings = read_scheduler_config(folder_ / "scheduler_config.json",
                                                nlohmann::json::parse(index), result.defaults);
        return result;
    }
    void expect_refused(ErrorCode code, const std::vector<std::string>& pieces,
                        const std::string& text) {
        expect_error(code, pieces, [&] { read(text); });
    }

    test::TemporaryFolder folder_;
};

// As the published folders of Wan2.1 have it.
constexpr const char* kReleased = R"({
  "_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0.dev0", "beta_end": 0.02,
  "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [],
  "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero", "flow_shift": 3.0,
  "lower_order_final": true, "num_train_timesteps": 1000, "predict_x0": true,
  "prediction_type": "flow_prediction", "rescale_betas_zero_snr": false, "sample_max_value": 1.0,
  "solver_order": 2, "solver_p": null, "solver_type": "bh2", "steps_offset": 0,
  "thresholding": false, "timestep_spacing": "linspace", "trained_betas": null,
  "use_beta_sigmas": false, "use_exponential_sigmas": false, "use_flow_sigmas": true,
  "use_karras_sigmas": false})";

TEST_F(SchedulerConfig, TheReleasedFileIsReadWithoutAWord) {
    const Read result = read(kReleased);
    EXPECT_EQ(result.defaults.flow_shift, 3.0);
    EXPECT_EQ(result.defaults.sampler, Sampler::unipc);
    EXPECT_TRUE(result.warnings.empty()) << result.warnings.front();
}

TEST_F(SchedulerConfig, TheShiftHasTheClassesName) {
    const Read euler = read(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8.0,
        "base_image_seq_len": 256, "base_shift": 0.5, "invert_sigmas": false, "max_shift": 1.15,
        "max_image_seq_len": 4096, "shift_terminal": null, "stochastic_sampling": false,
        "time_shift_type": "exponential", "use_dynamic_shifting": false})");
    EXPECT_EQ(euler.defaults.flow_shift, 8.0);
    EXPECT_EQ(euler.defaults.sampler, Sampler::euler);
    EXPECT_TRUE(euler.warnings.empty());
    EXPECT_EQ(read(R"({"_class_name": "FlowMatchLCMScheduler", "shift": 5})").defaults.sampler,
              Sampler::lcm);
    EXPECT_EQ(read(R"({"shift": 7})").defaults.flow_shift, 7);
    EXPECT_EQ(read(R"({"flow_shift": 7})").defaults.flow_shift, 7);
    EXPECT_EQ(read("{}").defaults.flow_shift, GenerationDefaults{}.flow_shift);
    const Read both =
        read(R"({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 8, "flow_shift": 3})");
    EXPECT_EQ(both.defaults.flow_shift, 8);
    ASSERT_EQ(both.warnings.size(), 1u);
    EXPECT_NE(both.warnings.front().find("flow_shift 3 is not"), std::string::npos);
}

TEST_F(SchedulerConfig, AClassWithoutAShiftHas1AsInDiffusers) {
    const Read read_one = read(R"({"_class_name": "UniPCMultistepScheduler"})");
    EXPECT_EQ(read_one.defaults.flow_shift, 1);
    ASSERT_EQ(read_one.warnings.size(), 1u);
    EXPECT_NE(read_one.warnings.front().find("no flow_shift"), std::string::npos);
}

TEST_F(SchedulerConfig, AnotherClassInTheIndexIsTold) {
    const auto warnings = [&](const char* index) { return read(kReleased, index).warnings; };
    EXPECT_TRUE(warnings(R"({"scheduler": ["diffusers", "UniPCMultistepScheduler"]})").empty());
    EXPECT_TRUE(warnings(R"({"scheduler": 3})").empty());
    const auto told = warnings(R"({"scheduler": ["diffusers", "LCMScheduler"]})");
    ASSERT_EQ(told.size(), 1u);
    EXPECT_NE(told.front().find("LCMScheduler"), std::string::npos);
}

// Python's json writes -Infinity.
TEST_F(SchedulerConfig, DpmSolversInfinityIsRead) {
    const Read dpm = read(R"({"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 5.0,
        "lambda_min_clipped": -Infinity, "algorithm_type": "dpmsolver++", "euler_at_final": false,
        "solver_type": "midpoint", "variance_type": null, "use_flow_sigmas": true,
        "use_lu_lambdas": false, "prediction_type": "flow_prediction"})");
    EXPECT_EQ(dpm.defaults.sampler, Sampler::dpmpp);
    EXPECT_TRUE(dpm.warnings.empty()) << dpm.warnings.front();
    EXPECT_NE(read(R"({"note": "to \"Infinity"})").warnings.front().find("Infinity"),
              std::string::npos);
}

TEST_F(SchedulerConfig, WhatWouldMakeOtherPicturesIsRefusedByName) {
    const auto unsupported = [&](const std::vector<std::string>& pieces, const std::string& text) {
        expect_refused(ErrorCode::unsupported, pieces, text);
    };
    unsupported({"LCMScheduler", "UniPCMultistepScheduler"}, R"({"_class_name": "LCMScheduler"})");
    unsupported({"FlowMatchHeunDiscreteScheduler"},
                R"({"_class_name": "FlowMatchHeunDiscreteScheduler"})");
    unsupported({"prediction_type", "epsilon"}, R"({"prediction_type": "epsilon"})");
    unsupported({"use_flow_sigmas"}, R"({"use_flow_sigmas": false})");
    unsupported({"use_dynamic_shifting"}, R"({"use_dynamic_shifting": true})");
    unsupported({"use_karras_sigmas"}, R"({"use_karras_sigmas": true})");
    unsupported({"shift_terminal", "0.02"}, R"({"shift_terminal": 0.02})");
    unsupported({"num_train_timesteps"}, R"({"num_train_timesteps": 500})");
    unsupported({"denoising_step_list", "750", "timesteps"},
                R"({"denoising_step_list": [1000, 750, 500, 250]})");
    unsupported({"dmd_denoising_steps"}, R"({"dmd_denoising_steps": [1000, 757, 522]})");
}

TEST_F(SchedulerConfig, SolverDetailsAndUnknownKeysAreToldInOneLine) {
    const Read result = read(R"({"solver_order": 3, "solver_type": "bh1", "made_up": [1, 2]})");
    ASSERT_EQ(result.warnings.size(), 1u);
    for (const char* piece : {"solver_order 3", "solver_type \"bh1\"", "made_up [1,2]"}) {
        EXPECT_NE(result.warnings.front().find(piece), std::string::npos) << piece;
    }
    EXPECT_TRUE(read(R"({"made_up": null})").warnings.empty());
}

TEST_F(SchedulerConfig, ValuesOfOtherTypesAndDamagedFilesAreRefused) {
    expect_refused(ErrorCode::bad_file, {"flow_shift", "3.0"}, R"({"flow_shift": "3.0"})");
    expect_refused(ErrorCode::bad_file, {"shift"}, R"({"shift": 0})");
    expect_refused(ErrorCode::bad_file, {"shift"}, R"({"shift": Infinity, "flow_shift": -1})");
    expect_refused(ErrorCode::unsupported, {"class 3"}, R"({"_class_name": 3})");
    expect_refused(ErrorCode::bad_file, {"scheduler_config.json"}, "[1]");
    const std::string deep(100'000, '['), end(100'000, ']');
    for (const char* key : {"_class_name", "flow_shift", "denoising_step_list", "made_up"}) {
        const std::string text = fmt::format(R"({{"{}": {}{}}})", key, deep, end);
        if (key == std::string("made_up")) {
            EXPECT_EQ(read(text).warnings.size(), 1u);
        } else {
            EXPECT_THROW(read(text), Error) << key;
        }
    }
    expect_refused(ErrorCode::bad_file, {"scheduler_config.json"}, R"({"shift": )");
    expect_refused(ErrorCode::bad_file, {"scheduler_config.json"}, "{\"a\": \"\\");
}

}  // namespace
}  // namespace quantsparse::format
