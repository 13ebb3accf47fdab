// The whole calibration on a random model of a few thousand parameters.
#include "calib/calibrate.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>

#include "calib/block_file.hpp"
#include "calib/collect.hpp"
#include "calib/linear_algebra.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"
#include "calib/smoothing.hpp"
#include "format/bit_packing.hpp"
#include "format/mapped_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::calib {
namespace {

using format::test::expect_error;
namespace fs = std::filesystem;

class CalibrateTest : public testing::Test {
  protected:
    void SetUp() override {
        reset_cancel();
        const fs::path source = QUANTSPARSE_TEST_ROOT;
        const auto tokenizer =
            source / "samples" / "models" / "shapes-tiny" / "tokenizer" / "spiece.model";
        tiny_.text_encoder.vocab_size = 512;  // at least as many as the bundled tokenizer's
        tiny_.write_diffusers_folder(folder_ / "model",
                                     format::read_small_text(tokenizer, 1 << 20));
        options_.model.model = folder_ / "model";
        options_.output = folder_ / "out.safetensors";
        options_.samples = 2;
        options_.steps = 2;
        options_.kept_rows = 64;
    }

    fs::path work() const { return work_directory(options_); }

    format::test::TinyModel tiny_;
    format::test::TemporaryFolder folder_;
    CalibrationOptions options_;
};

std::vector<format::LinearSpec> all_linears(const format::ModelBundle& model) {
    std::vector<format::LinearSpec> all;
    for (const auto& block : transformer_of(model).network.blocks) {
        const auto linears = linears_of(block);
        all.insert(all.end(), linears.begin(), linears.end());
    }
    return all;
}

TEST_F(CalibrateTest, WritesAFileTheRuntimeAcceptsAtEveryWidth) {
    for (const auto& [weights, activations] : {std::pair{3, 8}, {4, 8}, {6, 6}, {8, 8}, {16, 16}}) {
        options_.weight_bits = weights;
        options_.activation_bits = activations;
        const auto summary = calibrate(options_, false);
        EXPECT_FALSE(fs::exists(work()));
        const auto model = format::open_model(options_.output);
        EXPECT_EQ(model.quantization.bits, (format::LinearBits{weights, activations}));
        EXPECT_EQ(model.defaults.native_width, 64);
        EXPECT_EQ(summary.reports.size(), weights == 16 ? 0U : 20U);
        EXPECT_EQ(summary.file_bytes, fs::file_size(options_.output));
        const double share =
            static_cast<double>(summary.bytes.stored) / static_cast<double>(summary.bytes.bf16);
        EXPECT_GE(share, weights / 16.0);
        EXPECT_LE(share, weights / 16.0 + 0.035);  // the scales: 4 bytes in 2 * 64
    }
}

/// The stored linear, run as the model file's description says, gives the source's output.
TEST_F(CalibrateTest, StoredLinearsReproduceTheSource) {
    options_.weight_bits = 8;
    options_.method.rounding = Rounding::nearest;  // for any rows, not those of calibration
    calibrate(options_, false);
    const auto source = format::open_model(options_.model);
    const auto model = format::open_model(options_.output);
    for (const auto& linear : all_linears(model)) {
        const auto values = [&](const char* part) {
            return format::to_float(model.at("transformer").checkpoint->at(linear.name + part));
        };
        const int n = linear.out_features;
        const int k = linear.in_features;
        const auto& view = model.at("transformer").checkpoint->at(linear.name + ".codes");
        std::vector<std::uint32_t> words(view.bytes.size() / 4);
        std::memcpy(words.data(), view.bytes.data(), view.bytes.size());
        const auto codes = format::unpack_weight_codes(words, n, k, 8);
        const auto scale = values(".scale");
        std::vector<float> weight(codes.size());
        for (std::size_t i = 0; i < weight.size(); ++i) {
            weight[i] = static_cast<float>(codes[i]) * scale[i / static_cast<std::size_t>(k)];
        }
        // Rows as large in each channel as calibration found them there.
        const auto channel_scale = values(".channel_scale");
        auto x = format::test::test_values(static_cast<std::size_t>(3 * k), 77, 1.0f);
        for (std::size_t i = 0; i < x.size(); ++i) {
            x[i] *= channel_scale[i % static_cast<std::size_t>(k)];
        }
        const auto target = multiply_transposed(
            x, format::to_float(source.at("transformer").checkpoint->at(linear.name + ".weight")),
            3, n, k);
        const auto output = multiply_transposed(
            transform_rows(x, k, channel_scale, values(".rotation_signs")), weight, 3, n, k);
        EXPECT_GT(signal_to_noise_db(target, output), 38.0) << linear.name;
        // The stored bias holds what quantising shifts the output by: little at 8 bits.
        const auto bias =
            format::to_float(source.at("transformer").checkpoint->at(linear.name + ".bias"));
        EXPECT_GT(signal_to_noise_db(bias, values(".bias")), 20.0) << linear.name;
    }
}

TEST_F(CalibrateTest, LinearsWithOneInputShareScaleAndRotation) {
    calibrate(options_, false);
    const auto model = format::open_model(options_.output);
    const auto& transformer = *model.at("transformer").checkpoint;
    const auto same = [&](const char* a, const char* b) {
        for (const char* part : {".channel_scale", ".rotation_signs"}) {
            const auto left = format::to_float(transformer.at(std::string(a).append(part)));
            const auto right = format::to_float(transformer.at(std::string(b).append(part)));
            if (left != right) {
                return false;
            }
        }
        return true;
    };
    EXPECT_TRUE(same("blocks.0.self_attn.q", "blocks.0.self_attn.k"));
    EXPECT_TRUE(same("blocks.0.self_attn.q", "blocks.0.self_attn.v"));
    EXPECT_TRUE(same("blocks.1.cross_attn.k", "blocks.1.cross_attn.v"));
    EXPECT_FALSE(same("blocks.0.cross_attn.q", "blocks.0.cross_attn.k"));
}

TEST_F(CalibrateTest, RecordsHowItWasMade) {
    options_.seed = 5;
    calibrate(options_, false);
    const auto model = format::open_model(options_.output);
    const auto record = nlohmann::json::parse(model.quantization.record);
    EXPECT_EQ(record["rounding"], "refined");
    EXPECT_EQ(record["rotation"], "hadamard");
    EXPECT_EQ(record["method"], "fast");
    const auto& calibration = record["calibration"];
    EXPECT_EQ(calibration["samples"], 2);
    EXPECT_EQ(calibration["seed"], 5);
    ASSERT_EQ(calibration["blocks"].size(), 2U);
    EXPECT_EQ(calibration["blocks"][0]["linears"].size(), 10U);
    EXPECT_GT(calibration["blocks"][0]["loss"], 0.0);
    EXPECT_LT(calibration["blocks"][0]["loss"], 0.1);
}

TEST_F(CalibrateTest, TheSameCommandGivesTheSameFile) {
    // The record holds the seconds taken, so the tensors are compared.
    for (const auto inputs : {BlockInputs::fp, BlockInputs::quantized}) {
        options_.learning.inputs = inputs;
        options_.threads = 1;
        calibrate(options_, false);
        const format::SafetensorsFile first(options_.output);
        for (const int threads : {2, 3}) {
            auto again = options_;
            again.output = folder_ / "again.safetensors";
            again.threads = threads;
            calibrate(again, false);
            const format::SafetensorsFile second(again.output);
            ASSERT_EQ(first.tensors().size(), second.tensors().size());
            for (const auto& [name, view] : first.tensors()) {
                const auto& other = second.at(name).bytes;
                ASSERT_EQ(view.bytes.size(), other.size()) << name;
                EXPECT_EQ(std::memcmp(view.bytes.data(), other.data(), other.size()), 0) << name;
            }
        }
    }
}

TEST_F(CalibrateTest, RotationAndSmoothingCanBeSwitchedOff) {
    options_.method.rotation = Rotation::none;
    options_.method.scale = ChannelScale::none;
    calibrate(options_, false);
    const auto model = format::open_model(options_.output);
    EXPECT_EQ(model.at("transformer").checkpoint->find("blocks.0.ffn.0.rotation_signs"), nullptr);
    const auto scale =
        format::to_float(model.at("transformer").checkpoint->at("blocks.0.ffn.0.channel_scale"));
    EXPECT_EQ(scale, std::vector<float>(scale.size(), 1.0f));
}

TEST_F(CalibrateTest, CancellingLeavesNoOutput) {
    request_cancel();
    EXPECT_THROW(calibrate(options_, false), Cancelled);
    reset_cancel();
    EXPECT_FALSE(fs::exists(options_.output));
}

TEST_F(CalibrateTest, AnInterruptedRunGoesOnWithTheFinishedBlocks) {
    options_.method.rounding = Rounding::nearest;  // its samples would be larger than the output
    calibrate(options_, false);
    const auto size = fs::file_size(options_.output);
    // Writing fails at the very end, when all blocks are done: the disk is full.
    fs::remove(options_.output);
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit limited = before;
    limited.rlim_cur = size - 1;
    auto* const old_handler = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
    expect_error(ErrorCode::io, {"can't write", "free some space"},
                 [&] { calibrate(options_, false); });
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old_handler);
    EXPECT_FALSE(fs::exists(options_.output));
    ASSERT_TRUE(fs::exists(work() / "block.0.safetensors"));
    fs::remove(work() / "block.1.safetensors");

    const auto summary = calibrate(options_, false);
    EXPECT_TRUE(summary.resumed_activations);
    EXPECT_EQ(summary.resumed_blocks, 1);
    EXPECT_EQ(summary.reports.size(), 20U);
    EXPECT_NEAR(static_cast<double>(fs::file_size(options_.output)), static_cast<double>(size), 16);
    EXPECT_FALSE(fs::exists(work()));
}

TEST_F(CalibrateTest, AnUnwritableOutputIsFoundBeforeAnyWork) {
    options_.output = folder_ / "missing-folder" / "out.safetensors";
    options_.work_directory = folder_ / "work";
    expect_error(ErrorCode::io, {"missing-folder"}, [&] { calibrate(options_, false); });
    EXPECT_FALSE(fs::exists(folder_ / "work"));
}

TEST_F(CalibrateTest, FinishedBlocksAreTakenOverAndOthersAreNot) {
    const fs::path path = folder_ / "block.safetensors";
    const auto model = format::open_model(options_.model);
    const auto collected = collect(model, options_, false);
    const auto& activations = collected.activations;
    options_.method.rounding = Rounding::nearest;
    const auto linears = quantize_block(transformer_of(model), 1, activations, {}, options_);
    save_block(path, linears, "this run");
    const auto loaded_linears = load_block(path, "this run");
    ASSERT_EQ(loaded_linears.size(), 10U);
    EXPECT_EQ(loaded_linears[0].name, "blocks.1.self_attn.q");
    EXPECT_DOUBLE_EQ(loaded_linears[9].report.output_snr_db, linears[9].report.output_snr_db);
    EXPECT_EQ(loaded_linears[9].codes, linears[9].codes);
    EXPECT_EQ(loaded_linears[9].rotation_signs, linears[9].rotation_signs);
    EXPECT_TRUE(load_block(path, "another run").empty());
    format::test::write_text(path, "damaged");
    EXPECT_TRUE(load_block(path, "this run").empty());

    activations.save(folder_ / "activations.safetensors", "this run");
    const auto loaded = CollectedActivations::load(folder_ / "activations.safetensors", "this run",
                                                   transformer_of(model).network);
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->group(1, "ffn_2").rows, activations.group(1, "ffn_2").rows);
    EXPECT_FALSE(CollectedActivations::load(folder_ / "activations.safetensors", "another",
                                            transformer_of(model).network)
                     .has_value());
}

TEST_F(CalibrateTest, NamesTheTensorThatIsNotFinite) {
    const auto path = folder_ / "model" / "transformer" / "diffusion_pytorch_model.safetensors";
    auto bytes = format::read_small_text(path, 64 << 20);
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    const auto json = nlohmann::json::parse(bytes.substr(8, header));
    const std::size_t offset =
        8 + header + json["blocks.1.ffn.0.weight"]["data_offsets"][0].get<std::size_t>();
    const float nan = std::nanf("");
    std::memcpy(bytes.data() + offset + 40, &nan, 4);
    format::test::write_text(path, bytes);
    expect_error(ErrorCode::non_finite, {"'blocks.1.ffn.0.weight'", "diffusion_pytorch_model"},
                 [&] { calibrate(options_, false); });
    EXPECT_FALSE(fs::exists(options_.output));
    EXPECT_FALSE(fs::exists(work()));
}

TEST_F(CalibrateTest, RefusesOptionsThatMakeNoSense) {
    const auto refused = [&](ErrorCode code, const std::vector<std::string>& pieces,
                             const std::function<void(CalibrationOptions&)>& change) {
        auto options = options_;
        change(options);
        expect_error(code, pieces, [&] { calibrate(options, false); });
    };
    const auto invalid = ErrorCode::invalid_argument;
    refused(invalid, {"5-bit weights"}, [](auto& o) { o.weight_bits = 5; });
    refused(invalid, {"7-bit activations"}, [](auto& o) { o.activation_bits = 7; });
    refused(invalid, {"16 goes with 16"}, [](auto& o) { o.weight_bits = 16; });
    refused(invalid, {"--samples -1"}, [](auto& o) { o.samples = -1; });
    refused(invalid, {"--epochs 0"}, [](auto& o) {
        o.preset = "full";
        o.learning.epochs = 0;
    });
    refused(invalid, {"--width -8"}, [](auto& o) { o.width = -8; });
    refused(invalid, {"multiples of 16", "32x48"}, [](auto& o) { o.width = 30; });
    refused(invalid, {"4n+1"}, [](auto& o) { o.frames = 8; });
    refused(invalid, {"unknown preset 'best'", "fast, full"}, [](auto& o) { o.preset = "best"; });
    refused(ErrorCode::io, {"nowhere"}, [&](auto& o) { o.model.model = folder_ / "nowhere"; });
    refused(ErrorCode::io, {"is a folder"}, [&](auto& o) { o.output = folder_.path(); });
    refused(ErrorCode::invalid_argument, {"UTF-8"}, [](auto& o) { o.prompts = {"\xFF\xFE"}; });
}

TEST_F(CalibrateTest, RefusesAModelThatIsQuantisedAlready) {
    calibrate(options_, false);
    auto again = options_;
    again.model.model = options_.output;
    again.output = folder_ / "again.safetensors";
    expect_error(ErrorCode::unsupported, {"quantised already (w4a8)"},
                 [&] { calibrate(again, false); });
}

}  // namespace
}  // namespace quantsparse::calib
