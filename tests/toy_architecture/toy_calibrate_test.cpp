// The made-up architecture in the calibrator: opened, calibrated with other bits for one group,
// written and read back. Leaves its model and a reference for toy_generate_test.cpp.
#include <gtest/gtest.h>

#include "calib/calibrate.hpp"
#include "calib/collect.hpp"
#include "format/mapped_file.hpp"
#include "toy_calibration.hpp"
#include "toy_network.hpp"
#include "unit/calib_support.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::toy {
namespace {

namespace fs = std::filesystem;
using format::test::test_values;

const fs::path kFolder = QUANTSPARSE_TOY_FOLDER;
const fs::path kQuantized = kFolder / "toy-w4a8.safetensors";

class ToyCalibration : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        register_toy_network();
        register_toy_calibration();
        fs::remove_all(kFolder);
        write_model();
    }

    /// A diffusers folder whose text encoder and autoencoder are those of the tests' tiny model.
    static void write_model() {
        format::test::TinyModel tiny;
        tiny.text_encoder.vocab_size = 512;
        const fs::path root = QUANTSPARSE_TEST_ROOT;
        tiny.write_diffusers_folder(
            kFolder / "model",
            format::read_small_text(root / "samples/models/shapes-tiny/tokenizer/spiece.model",
                                    1 << 20));
        format::test::write_text(
            kFolder / "model" / "model_index.json",
            R"({"_class_name": "ToyJointPipeline", "native_width": 128, "native_height": 96,)"
            R"( "native_frames": 9, "steps": 6, "guidance_scale": 4.0, "fps": 8})");
        const auto network = describe_toy({});
        format::test::write_text(kFolder / "model" / "transformer" / "config.json",
                                 format::test::config_of(network).dump());
        format::test::write_network(
            kFolder / "model" / "transformer" / "diffusion_pytorch_model.safetensors",
            network.tensors);
    }

    static calib::CalibrationOptions options() {
        calib::CalibrationOptions options;
        options.model.model = kFolder / "model";
        options.output = kQuantized;
        options.samples = 2;
        options.steps = 3;
        options.kept_rows = 128;
        options.threads = 1;
        options.group_bits["mlp_down"] = {8, 8};
        options.group_bits["layers.0.joint_out"] = {16, 16};
        return options;
    }
};

TEST_F(ToyCalibration, WritesAModelFileAndReadsItBack) {
    const auto summary = calib::calibrate(options(), false);
    EXPECT_EQ(summary.reports.size(), 2U * 6 - 1);
    const auto model = format::open_model(kQuantized);
    EXPECT_EQ(model.architecture, "toy-joint");
    const auto& component = model.at("transformer");
    EXPECT_EQ(component.network.config_as<ToyConfig>().hidden, ToyConfig{}.hidden);
    // Bits are those of the group, or of the group in one block.
    const auto shape = [&](const char* name) { return component.checkpoint->at(name).shape; };
    EXPECT_EQ(shape("layers.1.attn.to_q.codes"), format::codes_shape(64, 64, 4));
    EXPECT_EQ(shape("layers.1.mlp.down.codes"), format::codes_shape(64, 160, 8));
    EXPECT_NE(component.checkpoint->find("layers.0.attn.proj.weight"), nullptr);
    EXPECT_NE(component.checkpoint->find("layers.1.attn.proj.codes"), nullptr);
}

/// What the calibrator computes with the file, for the runtime to compare.
TEST_F(ToyCalibration, LeavesAReferenceForTheRuntime) {
    const auto source = format::open_model(kFolder / "model");
    const auto quantized = format::open_model(kQuantized);
    const ToyConfig c;
    const auto latent = test_values(16 * 3 * 12 * 16, 5, 1.5f);
    const auto prompt = test_values(static_cast<std::size_t>(7 * c.text_width), 6, 1.0f);
    const auto prediction = calib::test::quantized_prediction(
        source.at("transformer"), quantized,
        {calib::test::to_tensor(latent, {16, 3, 12, 16}),
         {{"prompt_rows", calib::test::to_tensor(prompt, {7, c.text_width})}},
         437.0,
         4.0});
    format::SafetensorsWriter writer(kFolder / "reference.safetensors");
    const auto count = static_cast<std::int64_t>(latent.size());
    writer.declare("latent", format::DType::f32, {count});
    writer.declare("prompt", format::DType::f32, {static_cast<std::int64_t>(prompt.size())});
    writer.declare("prediction", format::DType::f32, {count});
    writer.write("latent", format::test::bytes_of(latent));
    writer.write("prompt", format::test::bytes_of(prompt));
    writer.write("prediction", format::test::bytes_of(prediction));
    writer.finish();
}

TEST_F(ToyCalibration, NamesAGroupThatTheModelDoesNotHave) {
    auto wrong = options();
    wrong.output = kFolder / "never.safetensors";
    wrong.group_bits["self_qkv"] = {8, 8};
    format::test::expect_error(ErrorCode::invalid_argument, {"'self_qkv'", "joint_in"},
                               [&] { calib::calibrate(wrong, false); });
    EXPECT_FALSE(fs::exists(wrong.output));
}

}  // namespace
}  // namespace quantsparse::toy
