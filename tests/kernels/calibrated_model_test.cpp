// What the calibrator says a quantised model computes is what the runtime computes: the same file,
// the same input, once on LibTorch and once on the device.
#include <cmath>

#include "calib/calibrate.hpp"
#include "format/mapped_file.hpp"
#include "pipeline/denoise.hpp"
#include "support.hpp"
#include "unit/calib_support.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::tests {
namespace {

namespace fs = std::filesystem;
using calib::CalibrationOptions;

class CalibratedModelTest : public DeviceTest {
  protected:
    void SetUp() override {
        DeviceTest::SetUp();
        const fs::path source = QUANTSPARSE_TEST_ROOT;
        const auto tokenizer =
            source / "samples" / "models" / "shapes-tiny" / "tokenizer" / "spiece.model";
        tiny_.text_encoder.vocab_size = 512;  // at least as many as the bundled tokenizer's
        tiny_.write_diffusers_folder(folder_ / "model",
                                     format::read_small_text(tokenizer, 1 << 20));
        options_.model.model = folder_ / "model";
        options_.output = folder_ / "out.safetensors";
        options_.samples = 2;
        options_.steps = 4;
        options_.kept_rows = 64;
        options_.threads = 1;
        options_.learning.epochs = 3;
        options_.learning.rate = 0.05;  // few steps shall move far from the start
    }

    /// The relative difference of both velocities.
    double difference() {
        calib::calibrate(options_, false);
        const auto model = format::open_model(options_.output);
        const auto source = format::open_model(options_.model);
        const auto& transformer = model.at("transformer");
        const auto& geometry = transformer.network.geometry;
        const models::LatentShape shape{geometry.in_channels, 3, 4, 6};
        const auto latent = random(geometry.in_channels, 3 * 4 * 6);
        const auto hidden = random(5, geometry.text_width);
        const double timestep = 437.0;

        pipeline::Denoiser denoiser(
            device().internal(), transformer,
            pipeline::denoising_options(transformer, model.quantization, shape, 1, false), {});
        denoiser.write("context", hidden);
        denoiser.set_prompt(0);
        const auto runtime = denoiser.predict(0, latent, timestep);
        const auto torch = calib::test::quantized_prediction(
            source.at("transformer"), model,
            {calib::test::to_tensor(latent, {geometry.in_channels, 3, 4, 6}),
             {{"context", calib::test::to_tensor(hidden, {5, geometry.text_width})}},
             timestep});
        double error = 0, power = 0;
        EXPECT_EQ(runtime.size(), torch.size());
        for (std::size_t i = 0; i < runtime.size(); ++i) {
            error += std::pow(static_cast<double>(runtime[i]) - torch[i], 2);
            power += std::pow(static_cast<double>(torch[i]), 2);
        }
        return std::sqrt(error / power);
    }

    format::test::TinyModel tiny_;
    format::test::TemporaryFolder folder_;
    CalibrationOptions options_;
};

// A value that falls on the other side of a rounding threshold, because sums ran in another order,
// moves an output by about a step: 1/127 of a token's maximum at 8 bits, 1/31 at 6, spread over all
// outputs by the sum. Quantising itself changes the velocity by some 10 %.
TEST_F(CalibratedModelTest, LearnedRotationsAtFourAndEightBits) {
    options_.preset = "paper";
    EXPECT_LT(difference(), 0.01);
}

TEST_F(CalibratedModelTest, LearnedRotationsAndClippingAtSixBits) {
    options_.preset = "paper";
    options_.weight_bits = options_.activation_bits = 6;
    EXPECT_LT(difference(), 0.02);
}

TEST_F(CalibratedModelTest, SearchedScalesAndHadamardRotation) {
    EXPECT_LT(difference(), 0.01);
}

TEST_F(CalibratedModelTest, RotationThenScaleInOneMatrix) {
    options_.preset = "quantvggt";
    options_.activation_bits = 6;
    EXPECT_LT(difference(), 0.02);
}

TEST_F(CalibratedModelTest, AProductBesideTheCodes) {
    options_.preset = "mpq-dm";
    EXPECT_LT(difference(), 0.01);
}

TEST_F(CalibratedModelTest, NeitherScaleNorRotation) {
    options_.preset = "minmax";
    EXPECT_LT(difference(), 0.01);
}

}  // namespace
}  // namespace quantsparse::tests
