// Presets that learn, on a random model of a few thousand parameters.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <thread>

#include "calib/block_file.hpp"
#include "calib/calibrate.hpp"
#include "calib/collect.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/orthogonal.hpp"
#include "calib/progress.hpp"
#include "calib/tensors.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;
using format::test::expect_error;

class FullPresetTest : public testing::Test {
  protected:
    void SetUp() override {
        reset_cancel();
        set_thread_count(1);
        const fs::path source = QUANTSPARSE_TEST_ROOT;
        const auto tokenizer =
            source / "samples" / "models" / "shapes-tiny" / "tokenizer" / "spiece.model";
        tiny_.text_encoder.vocab_size = 512;  // at least as many as the bundled tokenizer's
        tiny_.write_diffusers_folder(folder_ / "model",
                                     format::read_small_text(tokenizer, 1 << 20));
        options_.model.model = folder_ / "model";
        options_.output = folder_ / "out.safetensors";
        options_.preset = "paper";
        options_.samples = 8;
        options_.steps = 4;
        options_.kept_rows = 64;
        options_.threads = 1;
        options_.learning.epochs = 8;
    }

    CalibrationSummary run(const std::string& preset) {
        auto options = options_;
        options.preset = preset;
        options.output = folder_ / (preset + ".safetensors");
        return calibrate(options, false);
    }

    format::test::TinyModel tiny_;
    format::test::TemporaryFolder folder_;
    CalibrationOptions options_;
};

TEST_F(FullPresetTest, BeatsWhatItStartsFromOnEveryBlock) {
    options_.activation_bits = 6;
    options_.weight_bits = 6;
    const auto summary = calibrate(options_, false);
    ASSERT_EQ(summary.blocks.size(), 2U);
    for (const auto& block : summary.blocks) {
        const auto& learning = block.learning;
        const auto total = [&](const BlockLosses& losses) {
            return losses.output + learning.lambda_global * losses.global +
                   learning.lambda_local * losses.local;
        };
        EXPECT_LT(total(learning.best), 0.95 * total(learning.start));
        EXPECT_GT(learning.best_epoch, 0);
        EXPECT_GT(learning.lambda_global, 0);
        // Balanced: each term is as large as the output's error at the start.
        EXPECT_NEAR(learning.lambda_local * learning.start.local / learning.start.output, 1.0,
                    1e-9);
        EXPECT_GT(block.peak_bytes, 0U);
    }
    const auto model = format::open_model(options_.output);
    const auto& transformer = *model.at("transformer").checkpoint;
    EXPECT_EQ(transformer.at("blocks.0.ffn.2.rotation").shape,
              (std::vector<std::int64_t>{5, 32, 32}));  // 160 = 5 * 32
    EXPECT_EQ(transformer.find("blocks.0.self_attn.k.rotation"), nullptr);
    EXPECT_EQ(transformer.find("blocks.0.self_attn.q.rotation_signs"), nullptr);
    const auto clip = format::to_float(transformer.at("blocks.1.cross_attn.k.activation_clip"));
    EXPECT_GE(clip[0], 0.7f);
    EXPECT_LE(clip[0], 1.0f);
}

TEST_F(FullPresetTest, EachLossLowersItsOwnError) {
    options_.learning.epochs = 12;
    const auto with = [&](Distillation distill) {
        auto options = options_;
        options.method.distill = distill;
        options.learning.balance = 30;  // so that it outweighs the output
        return calibrate(options, false).blocks.at(0).learning;
    };
    const auto global = with(Distillation::global);
    EXPECT_LT(global.best.global, 0.9 * global.start.global);
    EXPECT_EQ(global.lambda_local, 0.0);
    const auto local = with(Distillation::local);
    EXPECT_LT(local.best.local, 0.9 * local.start.local);
    EXPECT_EQ(local.start.global, 0.0);
    EXPECT_EQ(with(Distillation::none).start.local, 0.0);
}

TEST_F(FullPresetTest, EverySwitchGivesAFileTheRuntimeAccepts) {
    options_.learning.epochs = 1;
    const std::vector<std::function<void(CalibrationOptions&)>> changes = {
        [](auto& o) { o.preset = "q-vdit"; },
        [](auto& o) { o.learning.attention = CalibAttention::sparse; },
        [](auto& o) { o.learning.inputs = BlockInputs::fp; },
        [](auto& o) { o.learning.saliency = Saliency::random; },
        [](auto& o) { o.method.rotation = Rotation::hadamard; },
        [](auto& o) { o.method.rotation = Rotation::none; },
        [](auto& o) { o.method.scale = ChannelScale::smooth; },
        [](auto& o) { o.learning.lambda_global = o.learning.lambda_local = 1e-4; },
        [](auto& o) { o.learning.rotation_block = 16; },
        [](auto& o) { o.method.clip_activations = true; },
    };
    for (std::size_t i = 0; i < changes.size(); ++i) {
        auto options = options_;
        changes[i](options);
        const auto summary = calibrate(options, false);
        const auto model = format::open_model(options.output);
        EXPECT_EQ(model.quantization.bits.weights, 4) << i;
        for (const auto& block : summary.blocks) {
            EXPECT_TRUE(std::isfinite(block.errors.prefix)) << i;
            EXPECT_LT(block.errors.own, 0.2) << i;
        }
    }
}

TEST_F(FullPresetTest, BaselinesAreNoBetterThanTheSearch) {
    const auto last_error = [&](const char* preset) {
        return run(preset).blocks.back().errors.prefix;
    };
    const double fast = last_error("fast");
    for (const char* preset : {"minmax", "smoothquant", "quarot", "vidit-q"}) {
        EXPECT_GT(last_error(preset), fast) << preset;
    }
}

/// On the first block, which sees the same inputs whatever was learned.
TEST_F(FullPresetTest, RoundedWithErrorFeedbackWhatIsLearnedIsNoWorseThanWhatIsSearched) {
    options_.preset = "full";
    const auto learned = calibrate(options_, false).blocks.front();
    options_.learning.rate = options_.learning.quantizer_rate = 0;
    options_.learning.epochs = 1;
    const auto searched = calibrate(options_, false).blocks.front();
    EXPECT_LE(learned.errors.own, searched.errors.own * (1 + 1e-6));
}

/// Of all widths of released models: channel scales are searched for the rotation learning begins
/// with.
TEST_F(FullPresetTest, FullStartsFromTheRotationOfFast) {
    options_.preset = "full";
    for (const int width : {1536, 3072, 5120, 8960, 13824}) {
        EXPECT_EQ(rotation_block(width, learned_rotation_block(options_)),
                  format::hadamard_block(width));
    }
    options_.learning.rotation_block = 16;
    EXPECT_EQ(learned_rotation_block(options_), 16);
}

TEST_F(FullPresetTest, ABlockThatIsDoneIsNotLearnedAgain) {
    options_.preset = "full";
    const auto work = work_directory(options_);
    // Stopped once the first block is there: its file makes the next run go on.
    calibrate(options_, false);
    const auto whole = format::open_model(options_.output);
    auto interrupted = options_;
    interrupted.work_directory = folder_ / "work";
    const auto reference =
        format::to_float(whole.at("transformer").checkpoint->at("blocks.1.ffn.0.scale"));
    // The output's folder vanishes after the options were checked: writing fails at the very end.
    interrupted.output = folder_ / "gone" / "out.safetensors";
    fs::create_directories(folder_ / "gone");
    fs::create_directories(interrupted.work_directory);
    std::thread remover([&] {
        while (!fs::exists(interrupted.work_directory / "block.0.safetensors")) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
        request_cancel();
    });
    EXPECT_THROW(calibrate(interrupted, false), Cancelled);
    remover.join();
    reset_cancel();
    ASSERT_TRUE(fs::exists(interrupted.work_directory / "block.0.safetensors"));
    ASSERT_FALSE(fs::exists(interrupted.work_directory / "block.1.safetensors"));
    const auto summary = calibrate(interrupted, false);
    EXPECT_TRUE(summary.resumed_activations);
    EXPECT_EQ(summary.resumed_blocks, 1);
    EXPECT_EQ(summary.blocks.size(), 2U);
    EXPECT_GT(summary.blocks[0].errors.own, 0.0);
    // What is learned after going on is what would have been learned without the interruption.
    const auto resumed = format::open_model(interrupted.output);
    EXPECT_EQ(format::to_float(resumed.at("transformer").checkpoint->at("blocks.1.ffn.0.scale")),
              reference);
}

}  // namespace
}  // namespace quantsparse::calib
