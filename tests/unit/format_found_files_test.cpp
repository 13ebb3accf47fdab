// Which files are a network's, what a file is that is none, and what a checkpoint holds beyond what
// is used.
#include <gtest/gtest.h>

#include "format/convrot.hpp"
#include "format/encoded_weights.hpp"
#include "format/file_kind.hpp"
#include "format/find_weights.hpp"
#include "format/unused.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::format {
namespace {

using test::expect_error;
using test::TemporaryFolder;
using test::write_text;

std::string kind_of(std::string_view contents) {
    return what_it_is(std::as_bytes(std::span(contents)));
}

TEST(FileKind, NamesWhatLiesInThePlaceOfWeights) {
    using namespace std::string_view_literals;
    EXPECT_NE(kind_of("version https://git-lfs.github.com/spec/v1\noid").find("git lfs pull"),
              std::string::npos);
    EXPECT_NE(kind_of("  <!DOCTYPE HTML><html>").find("web page"), std::string::npos);
    EXPECT_NE(kind_of("PK\3\4rest").find("zip archive, as .pth"), std::string::npos);
    EXPECT_NE(kind_of("\x80\2}q"sv).find("pickle"), std::string::npos);
    EXPECT_NE(kind_of("\x1F\x8B\x08").find("gzip"), std::string::npos);
    EXPECT_NE(kind_of("").find("0 bytes"), std::string::npos);
    EXPECT_NE(kind_of(std::string(100000, '\0')).find("zeros only"), std::string::npos);
    EXPECT_NE(kind_of("Entry not found").find("text"), std::string::npos);
    EXPECT_EQ(kind_of("\x01\x02\x03\x04\x05\x06\x07\x08"), "");
}

TEST(FindWeights, TakesVariantsAndShardsInBothNamings) {
    const TemporaryFolder folder;
    const auto names = [&](const char* place) {
        std::vector<std::string> found;
        for (const auto& file : find_weights(folder / place).files) {
            found.push_back(file.filename().string());
        }
        return found;
    };
    write_text(folder / "variant/model.fp16.safetensors", "");
    EXPECT_EQ(names("variant"), std::vector<std::string>{"model.fp16.safetensors"});
    for (const char* index : {"m.safetensors.index.fp16.json", "m.safetensors.fp16.index.json"}) {
        const auto place = std::string("shards ") + index;
        write_text(folder / place / index, R"({"weight_map": {"a": "2", "b": "1"}})");
        EXPECT_EQ(names(place.c_str()), (std::vector<std::string>{"1", "2"}));
    }
    write_text(folder / "all/m-00001-of-00002.safetensors", "");
    write_text(folder / "all/m-00002-of-00002.safetensors", "");
    EXPECT_EQ(names("all").size(), 2u);
    std::filesystem::remove(folder / "all/m-00002-of-00002.safetensors");
    write_text(folder / "all/m-00002-of-00003.safetensors", "");
    expect_error(ErrorCode::bad_file, {"missing shards", "index.json"},
                 [&] { find_weights(folder / "all"); });
    write_text(folder / "variant/._model.safetensors", "macOS");
    EXPECT_EQ(names("variant").size(), 1u);
    write_text(folder / "torch/model.bin", "");
    expect_error(ErrorCode::io, {"model.bin", "PyTorch"}, [&] { find_weights(folder / "torch"); });
}

/// The regular Hadamard matrix by its definition, times sqrt(group): a product of digits.
float regular_hadamard(int row, int column, int group) {
    constexpr int kFour[4][4] = {{1, 1, 1, -1}, {1, 1, -1, 1}, {1, -1, 1, 1}, {-1, 1, 1, 1}};
    int value = 1;
    for (; group > 1; group /= 4, row /= 4, column /= 4) value *= kFour[row % 4][column % 4];
    return static_cast<float>(value);
}

TEST(ConvRot, IsTheRegularHadamardMatrixAndItsSylvesterForm) {
    for (const int group : {4, 16, 64, 256}) {
        const auto size = static_cast<std::size_t>(group);
        for (const int column : {0, 1, group / 2 + 1, group - 1}) {
            std::vector<float> row(size, 0.0f);
            row[static_cast<std::size_t>(column)] = std::sqrt(static_cast<float>(group));
            apply_convrot(row, group);
            for (int i = 0; i < group; ++i) {
                const auto at = static_cast<std::size_t>(i);
                ASSERT_EQ(row[at], regular_hadamard(column, i, group));
                // R[c][i] = sign(c) S[c][place(i)] sign(i)
                const auto c = static_cast<std::size_t>(column);
                const int sylvester = __builtin_parityll(c & convrot_place(at)) != 0 ? -1 : 1;
                ASSERT_EQ(row[at],
                          static_cast<float>(convrot_sign(c) * sylvester * convrot_sign(at)));
            }
        }
    }
    EXPECT_FALSE(is_convrot_group(128, 256));
    EXPECT_FALSE(is_convrot_group(256, 320));
}

TEST(EncodedWeights, AreRefusedWhenTheyAreZeroOrHaveTwoScales) {
    const TemporaryFolder folder;
    const auto open = [&](char code, bool two) {
        SafetensorsWriter writer(folder / "m.safetensors");
        const std::string weight = "blocks.0.ffn.0.weight";
        writer.declare(weight, DType::i8, {2, 4});
        writer.declare("blocks.0.ffn.0.weight_scale", DType::f32, {2, 1});
        if (two) writer.declare("blocks.0.ffn.0.scale_weight", DType::f32, {});
        writer.write(weight, std::vector<std::byte>(8, static_cast<std::byte>(code)));
        writer.write("blocks.0.ffn.0.weight_scale", test::bytes_of(std::vector<float>{1, 2}));
        if (two) writer.write("blocks.0.ffn.0.scale_weight", test::bytes_of(std::vector<float>{3}));
        writer.finish();
        return Checkpoint::open(folder / "m.safetensors", network_kind("wan-dit"));
    };
    EXPECT_EQ(to_float(open(3, false).at("blocks.0.ffn.0.weight")),
              (std::vector<float>{3, 3, 3, 3, 6, 6, 6, 6}));
    expect_error(ErrorCode::bad_file, {"blocks.0.ffn.0", "zeros"}, [&] { open(0, false); });
    expect_error(ErrorCode::unsupported, {"two scales", "scale_weight"}, [&] { open(3, true); });
}

class UnusedTest : public testing::Test {
  protected:
    /// Checks the tiny transformer with one more tensor; returns the warnings.
    std::vector<std::string> check(const std::string& name, std::vector<std::int64_t> shape) {
        const auto network = tiny_.transformer_network();
        auto tensors = network.tensors;
        tensors.push_back({name, std::move(shape)});
        const auto path = folder_ / "t.safetensors";
        test::write_network(path, tensors);
        const auto& kind = network_kind("wan-dit");
        std::vector<std::string> warnings;
        check_unused_tensors(Checkpoint::open(path, kind), network, kind, "transformer", warnings);
        return warnings;
    }
    TemporaryFolder folder_;
    test::TinyModel tiny_;
};

TEST_F(UnusedTest, RefusesWhatWouldMeanAnotherNetwork) {
    for (const char* name : {"blocks.0.self_attn.q.lora_A.weight", "blocks.0.ffn.0.smooth_factor",
                             "lora_unet_blocks_0_ffn_0.lora_up.weight", "blocks.0.ffn.0.absmax"}) {
        expect_error(ErrorCode::unsupported, {"adapter", name}, [&] { check(name, {8, 8}); });
    }
    expect_error(ErrorCode::unsupported, {"blocks.2.ffn.9.weight", "num_layers"}, [&] {
        check("blocks.2.ffn.9.weight", {8, 8});
    });
    expect_error(ErrorCode::unsupported, {"does not know", "camera.weight"}, [&] {
        check("camera.weight", {64, 8});
    });
}

TEST_F(UnusedTest, WarnsOfTheRestAndKeepsQuietAboutWhatIsKnown) {
    EXPECT_EQ(check("step", {1}).size(), 1u);
    EXPECT_NE(check("step", {1}).front().find("step"), std::string::npos);
    EXPECT_EQ(check("ema.blocks.0.ffn.0.weight", {160, 64}).size(), 1u);
    EXPECT_TRUE(check("freqs", {8, 8}).empty());
}

}  // namespace
}  // namespace quantsparse::format
