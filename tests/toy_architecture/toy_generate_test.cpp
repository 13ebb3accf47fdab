// The made-up architecture in the runtime, from the files that toy_calibrate_test.cpp leaves:
// planned, streamed, and generated with, dense and sparse.
#include <gtest/gtest.h>

#include <cmath>

#include "models/registry.hpp"
#include "pipeline/denoise.hpp"
#include "quantsparse/pipeline.hpp"
#include "toy_network.hpp"
#include "toy_program.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::toy {
namespace {

namespace fs = std::filesystem;

const fs::path kFolder = QUANTSPARSE_TOY_FOLDER;
const fs::path kQuantized = kFolder / "toy-w4a8.safetensors";

double relative_difference(std::span<const float> a, std::span<const float> b) {
    double error = 0, power = 0;
    EXPECT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - b[i], 2);
        power += std::pow(static_cast<double>(b[i]), 2);
    }
    return std::sqrt(error / power);
}

class ToyGeneration : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        register_toy_network();
        register_toy_program();
        device_ = new Device(DeviceOptions{});
    }
    static void TearDownTestSuite() { delete device_; }

    static GenerationParameters parameters() {
        GenerationParameters p;
        p.conditioning.prompt = "a red circle";
        p.seed = 3;
        return p;
    }
    static GenerationParameters sparse(double density) {
        GenerationParameters p = parameters();
        p.attention.kind = AttentionKind::sparse;
        p.attention.density = density;
        p.attention.dense_layers = 0;
        p.attention.refresh_interval = 2;
        p.attention.block_size = 32;
        return p;
    }
    static Video video(const fs::path& model, const GenerationParameters& p) {
        Generator generator(model, *device_);
        return generator.generate(p).value();
    }

    static Device* device_;
};

Device* ToyGeneration::device_ = nullptr;

TEST_F(ToyGeneration, PredictsWhatTheCalibratorComputes) {
    const format::SafetensorsFile reference(kFolder / "reference.safetensors");
    const auto model = format::open_model(kQuantized);
    const auto& transformer = model.at("transformer");
    pipeline::Denoiser denoiser(
        device_->internal(), transformer,
        pipeline::denoising_options(transformer, model.quantization, {16, 3, 12, 16}, 1, false),
        {});
    denoiser.write("prompt_rows", format::to_float(reference.at("prompt")));
    denoiser.write("guidance", std::vector<float>{4.0f});
    ASSERT_TRUE(denoiser.set_prompt(0));
    const auto prediction = denoiser.predict(0, format::to_float(reference.at("latent")), 437.0);
    // A code that falls on the other side of a threshold moves an output by about a step.
    EXPECT_LT(relative_difference(prediction, format::to_float(reference.at("prediction"))), 0.01);
}

TEST_F(ToyGeneration, FailsByNameOnAnInputThatNobodyGives) {
    const auto model = format::open_model(kFolder / "model");
    const auto& transformer = model.at("transformer");
    pipeline::Denoiser denoiser(
        device_->internal(), transformer,
        pipeline::denoising_options(transformer, {}, {16, 1, 4, 4}, 1, false), {});
    denoiser.write("guidance", std::vector<float>{4.0f});
    format::test::expect_error(ErrorCode::unsupported, {"'prompt_rows'"},
                               [&] { denoiser.predict(0, std::vector<float>(16 * 4 * 4), 437.0); });
    format::test::expect_error(ErrorCode::unsupported, {"'context'"},
                               [&] { denoiser.write("context", std::vector<float>{0.0f}); });
}

TEST_F(ToyGeneration, PlansAStageForEachExpert) {
    const Generator generator(kQuantized, *device_);
    EXPECT_EQ(generator.summary().architecture, "toy-joint");
    const MemoryPlan plan = generator.plan(parameters());
    ASSERT_EQ(plan.stages.size(), 4U);
    EXPECT_EQ(plan.stages[0].stage, "text_encoder");
    EXPECT_EQ(plan.stages[1].kind, StageKind::transformer);
    EXPECT_EQ(plan.stages[2].kind, StageKind::transformer);
    EXPECT_EQ(plan.stages[3].stage, "vae");
}

TEST_F(ToyGeneration, MakesAClipDenseAndSparse) {
    for (const fs::path& model : {kFolder / "model", kQuantized}) {
        const Video dense = video(model, parameters());
        EXPECT_EQ(dense.frames, 9);
        EXPECT_EQ(dense.width, 128);
        // A mask of all pairs computes the same, in another order of sums.
        const Video full = video(model, sparse(1.0));
        EXPECT_LT(relative_difference(full.latents, dense.latents),
                  model == kQuantized ? 0.05 : 1e-3);
        const Video half = video(model, sparse(0.8));
        const double difference = relative_difference(half.latents, dense.latents);
        EXPECT_GT(difference, 1e-6);  // the mask does leave something out
        EXPECT_LT(difference, 0.5);
    }
}

/// A LoRA of rank 3 for the first linear of each block's groups.
fs::path write_lora() {
    const fs::path path = kFolder / "lora.safetensors";
    const auto model = format::open_model(kFolder / "model");
    format::SafetensorsWriter writer(path);
    std::vector<std::pair<std::string, std::vector<float>>> tensors;
    std::uint32_t seed = 1;
    for (const auto& block : model.network("transformer").blocks) {
        for (const auto& group : block.groups) {
            const auto linear = format::linears_of(block, group).front();
            const auto add = [&](const char* part, int rows, int columns) {
                const std::string name = "diffusion_model." + linear.name + part;
                writer.declare(name, format::DType::f32, {rows, columns});
                tensors.emplace_back(
                    name, format::test::test_values(static_cast<std::size_t>(rows * columns),
                                                    seed++, 0.3f));
            };
            add(".lora_down.weight", 3, linear.in_features);
            add(".lora_up.weight", linear.out_features, 3);
        }
    }
    for (const auto& [name, values] : tensors) writer.write(name, format::test::bytes_of(values));
    writer.finish();
    return path;
}

TEST_F(ToyGeneration, LoraChangesTheClipItIsGivenForAndNoOther) {
    GenerationParameters with_lora = parameters();
    with_lora.conditioning.adapters = {{write_lora(), 0.5, AdapterTarget::both}};
    std::vector<float> changed[2];
    for (const bool quantized : {false, true}) {
        Generator generator(quantized ? kQuantized : kFolder / "model", *device_);
        const auto plain = generator.generate(parameters())->latents;
        changed[quantized] = generator.generate(with_lora)->latents;
        EXPECT_GT(relative_difference(changed[quantized], plain), 0.05);
        with_lora.conditioning.adapters.front().strength = 0.25;
        EXPECT_NE(generator.generate(with_lora)->latents, changed[quantized]);
        with_lora.conditioning.adapters.front().strength = 0.5;
        EXPECT_EQ(generator.generate(with_lora)->latents, changed[quantized]);
        EXPECT_EQ(generator.generate(parameters())->latents, plain);
    }
    // As a sum in the weights, and beside quantised ones.
    EXPECT_LT(relative_difference(changed[1], changed[0]), 0.1);
    with_lora.conditioning.adapters.front().target = AdapterTarget::high;
    format::test::expect_error(ErrorCode::invalid_argument, {"one transformer"},
                               [&] { video(kQuantized, with_lora); });
}

}  // namespace
}  // namespace quantsparse::toy
