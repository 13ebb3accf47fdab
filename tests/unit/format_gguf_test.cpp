#include "format/gguf.hpp"

#include <gtest/gtest.h>

#include "format/checkpoint.hpp"
#include "unit/format_support.hpp"
#include "unit/gguf_support.hpp"

namespace quantsparse::format::test {
namespace {

class GgufReader : public testing::Test {
  protected:
    std::filesystem::path write(const std::string& bytes, const char* name = "model.gguf") {
        write_text(folder_ / name, bytes);
        return folder_ / name;
    }
    void expect_refusal(ErrorCode code, const std::vector<std::string>& pieces,
                        const std::string& bytes) {
        expect_error(code, pieces, [&] { GgufFile{write(bytes)}; });
    }

    TemporaryFolder folder_;
};

constexpr std::uint32_t kF32 = 0, kQ8 = 8, kQ4K = 12;

/// A block of Q8_0: scale 0.5 as a half, codes -16 to 15.
std::string q8_block() {
    std::string block("\x00\x38", 2);
    for (int code = -16; code < 16; ++code) {
        block += static_cast<char>(code);
    }
    return block;
}

TEST_F(GgufReader, TurnsDimensionsRound) {
    const GgufFile file(write(GgufBuilder()
                                  .tensor("a", {3, 2}, kF32, float_bytes({1, 2, 3, 4, 5, 6}))
                                  .tensor("p", {2, 2, 1, 3, 5}, kF32, std::string(240, '\0'))
                                  .bytes()));
    EXPECT_EQ(file.at("a").shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(to_float(file.at("a")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(file.at("p").shape, (std::vector<std::int64_t>{5, 3, 1, 2, 2}));
}

TEST_F(GgufReader, Version2HasTheSameLayout) {
    const GgufFile file(write(GgufBuilder().tensor("a", {2}, kF32, float_bytes({1, 2})).bytes(2)));
    EXPECT_EQ(to_float(file.at("a")), (std::vector<float>{1, 2}));
}

TEST_F(GgufReader, AlignmentMayStandAnywhereAmongTheMetadata) {
    const GgufFile file(write(GgufBuilder()
                                  .string("first", "x")
                                  .number("general.alignment", 256)
                                  .string("last", "y")
                                  .alignment(256)
                                  .tensor("a", {2}, kF32, float_bytes({1, 2}))
                                  .tensor("b", {2}, kF32, float_bytes({3, 4}))
                                  .bytes()));
    EXPECT_EQ(to_float(file.at("b")), (std::vector<float>{3, 4}));
}

TEST_F(GgufReader, MetadataAreText) {
    const GgufFile file(write(GgufBuilder()
                                  .string("general.architecture", "wan")
                                  .number("n", 7)
                                  .flag("on", true)
                                  .value("f", GgufBuilder::f32, little_endian(0.25f))
                                  .value("i", GgufBuilder::i32, little_endian(-70000))
                                  .strings("words", {"a", "", "b c"})
                                  .numbers<float>("scores", GgufBuilder::f32, {0.5f, -1})
                                  .bytes()));
    const std::map<std::string, std::string> expected = {{"general.architecture", "wan"},
                                                         {"n", "7"},
                                                         {"on", "true"},
                                                         {"f", "0.25"},
                                                         {"i", "-70000"}};
    EXPECT_EQ(file.metadata(), expected);
    ASSERT_NE(file.array("words"), nullptr);
    EXPECT_EQ(file.array("words")->strings(), (std::vector<std::string_view>{"a", "", "b c"}));
    EXPECT_EQ(file.array("scores")->numbers(), (std::vector<double>{0.5, -1}));
    EXPECT_EQ(file.array("n"), nullptr);
}

TEST_F(GgufReader, SlicesOfBlocksAreTheirValues) {
    const GgufFile file(
        write(GgufBuilder().tensor("q", {32, 2}, kQ8, q8_block() + q8_block()).bytes()));
    const TensorView& view = file.at("q");
    EXPECT_TRUE(is_floating(view.dtype));
    EXPECT_EQ(view.byte_count(), 68U);
    const auto row = to_float(view.slice(32, 32));
    ASSERT_EQ(row.size(), 32U);
    EXPECT_EQ(row.front(), -8.0f);
    EXPECT_EQ(row.back(), 7.5f);
    EXPECT_EQ(to_float(view).size(), 64U);
}

TEST_F(GgufReader, FilesAreToldByTheirFirstBytes) {
    const auto gguf =
        write(GgufBuilder().tensor("a", {1}, kF32, float_bytes({1})).bytes(), "named.safetensors");
    EXPECT_NE(open_tensor_source(gguf)->find("a"), nullptr);
    const auto safetensors = write(
        safetensors_bytes(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234"),
        "named.gguf");
    EXPECT_NE(open_tensor_source(safetensors)->find("b"), nullptr);
    auto old = GgufBuilder().bytes();
    old[3] = 'L';
    expect_error(ErrorCode::bad_file, {"magic", "GGUL"},
                 [&] { open_tensor_source(write(old, "old.gguf")); });
}

TEST_F(GgufReader, RefusesBadHeads) {
    expect_refusal(ErrorCode::bad_file, {"the magic"}, "GG");
    expect_refusal(ErrorCode::unsupported, {"version 1"}, GgufBuilder().bytes(1));
    expect_refusal(ErrorCode::unsupported, {"version 4"}, GgufBuilder().bytes(4));
    expect_refusal(ErrorCode::unsupported, {"big-endian"}, GgufBuilder().bytes(3U << 24));
    auto counts = GgufBuilder().bytes();
    counts[13] = '\1';  // 2^40 tensors
    expect_refusal(ErrorCode::bad_file, {"the tensor count is 1099511627776"}, counts);
    counts = GgufBuilder().bytes();
    counts[16] = '\3';
    expect_refusal(ErrorCode::bad_file, {"the metadata count is 3"}, counts);
}

TEST_F(GgufReader, RefusesBadMetadata) {
    const auto with = [](const auto& change) {
        GgufBuilder builder;
        change(builder);
        return builder.bytes();
    };
    const auto alignment = [&](std::uint32_t bytes) {
        return with([&](GgufBuilder& b) { b.number("general.alignment", bytes); });
    };
    expect_refusal(ErrorCode::bad_file, {"general.alignment", "power of two"}, alignment(0));
    expect_refusal(ErrorCode::bad_file, {"general.alignment", "power of two"}, alignment(48));
    expect_refusal(ErrorCode::bad_file, {"general.alignment"},
                   with([](GgufBuilder& b) { b.string("general.alignment", "32"); }));
    expect_refusal(ErrorCode::bad_file, {"'k'", "unknown type 13"},
                   with([](GgufBuilder& b) { b.value("k", 13, ""); }));
    expect_refusal(ErrorCode::bad_file, {"'k'", "array"},
                   with([](GgufBuilder& b) { b.array("k", 9, 0, ""); }));
    expect_refusal(ErrorCode::bad_file, {"'k'", "1152921504606846976"},
                   with([](GgufBuilder& b) { b.array("k", 4, std::uint64_t{1} << 60, ""); }));
    expect_refusal(ErrorCode::bad_file, {"'k'", "end of the file"}, with([](GgufBuilder& b) {
                       b.value("k", 8, little_endian(std::uint64_t{1} << 60));
                   }));
    expect_refusal(ErrorCode::bad_file, {"'k'", "twice"},
                   with([](GgufBuilder& b) { b.number("k", 1).strings("k", {}); }));
    expect_refusal(ErrorCode::unsupported, {"split.count", "3 parts"},
                   with([](GgufBuilder& b) { b.number("split.count", 3); }));
}

TEST_F(GgufReader, RefusesBadTensors) {
    const auto one = [](std::vector<std::uint64_t> extents, std::uint32_t type,
                        std::uint64_t offset = 0) {
        return GgufBuilder().tensor_at("t", extents, type, offset, std::string(1024, '\0')).bytes();
    };
    expect_refusal(ErrorCode::bad_file, {"'t'", "255", "256", "Q4_K"}, one({255, 4}, kQ4K));
    expect_refusal(ErrorCode::bad_file, {"'t'", "6 dimensions"}, one({1, 1, 1, 1, 1, 1}, kF32));
    expect_refusal(ErrorCode::bad_file, {"'t'", "unknown type 4"}, one({1}, 4));
    expect_refusal(ErrorCode::unsupported, {"'t'", "IQ2_XS", "Q4_K"}, one({256}, 17));
    expect_refusal(ErrorCode::bad_file, {"'t'", "overflows"},
                   one({std::uint64_t{1} << 40, std::uint64_t{1} << 40}, kF32));
    expect_refusal(ErrorCode::bad_file, {"'t'", "9223372036854775808"},
                   one({std::uint64_t{1} << 63}, kF32));
    expect_refusal(ErrorCode::bad_file, {"'t'", "truncated"}, one({512}, kF32));
    expect_refusal(ErrorCode::bad_file, {"'t'", "alignment"}, one({1}, kF32, 1));
    expect_refusal(ErrorCode::bad_file, {"'t'", "end of the file"},
                   one({1}, kF32, std::uint64_t{1} << 63));
    const auto two = [](const char* name, std::uint64_t offset) {
        return GgufBuilder()
            .tensor("t", {16}, kF32, std::string(64, '\0'))
            .tensor_at(name, {8}, kF32, offset, std::string(32, '\0'))
            .bytes();
    };
    expect_refusal(ErrorCode::bad_file, {"'t'", "'u'", "overlap"}, two("u", 32));
    expect_refusal(ErrorCode::bad_file, {"two tensors", "'t'"}, two("t", 64));
    const auto whole = two("u", 64);
    GgufFile{write(whole)};
    for (std::size_t size = 0; size < whole.size(); ++size) {
        expect_refusal(ErrorCode::bad_file, {}, whole.substr(0, size));
    }
}

TEST_F(GgufReader, OnesMayBeMissingInGgufFilesOnly) {
    const auto gguf = Checkpoint::open(
        write(GgufBuilder()
                  .string("general.architecture", "wan")
                  .tensor("blocks.0.modulation", {8, 6}, kF32, std::string(192, '\0'))
                  .bytes()),
        network_kind("wan-dit"));
    EXPECT_NO_THROW(gguf.at("blocks.0.modulation", {1, 6, 8}));
    expect_error(ErrorCode::bad_file, {"blocks.0.modulation", "[6, 8]", "[1, 8, 6]"}, [&] {
        gguf.at("blocks.0.modulation", {1, 8, 6});
    });
    const auto safetensors = Checkpoint::open(
        write(safetensors_bytes(
                  R"({"blocks.0.modulation":{"dtype":"F32","shape":[6,8],"data_offsets":[0,192]}})",
                  std::string(192, '\0')),
              "model.safetensors"),
        network_kind("wan-dit"));
    expect_error(ErrorCode::bad_file, {"blocks.0.modulation"}, [&] {
        safetensors.at("blocks.0.modulation", {1, 6, 8});
    });
}

TEST_F(GgufReader, TwoOutermostOfFiveDimensionsMayBeOne) {
    const auto open = [&](std::vector<std::uint64_t> extents) {
        return Checkpoint::open(write(GgufBuilder()
                                          .tensor("patch_embedding.weight", std::move(extents),
                                                  kF32, std::string(960, '\0'))
                                          .bytes()),
                                network_kind("wan-dit"));
    };
    const std::vector<std::int64_t> wanted = {15, 4, 1, 2, 2};
    EXPECT_NO_THROW(open({2, 2, 1, 4, 15}).at("patch_embedding.weight", wanted));
    EXPECT_NO_THROW(open({2, 2, 1, 60}).at("patch_embedding.weight", wanted));
    expect_error(ErrorCode::bad_file, {"[60, 4]"}, [&] {
        open({4, 60}).at("patch_embedding.weight", wanted);
    });
}

TEST_F(GgufReader, TransformerIsInferredFromShapes) {
    if (golden_root().empty()) {
        GTEST_SKIP() << "no reference cases";
    }
    const auto& kind = network_kind("wan-dit");
    const auto checkpoint = Checkpoint::open(golden_root() / "gguf-wan-dit" / "model.gguf", kind);
    const auto config = kind.infer(checkpoint);
    for (const auto& [field, value] : {std::pair{"dim", 256},
                                       {"ffn_dim", 256},
                                       {"num_heads", 2},
                                       {"num_layers", 1},
                                       {"text_dim", 64},
                                       {"freq_dim", 32},
                                       {"in_dim", 16},
                                       {"out_dim", 16}}) {
        EXPECT_EQ(config.at(field), value) << field;
    }
}

TEST_F(GgufReader, OtherArchitecturesAreNamed) {
    const auto open = [&](const char* architecture, const char* kind) {
        GgufBuilder builder;
        if (architecture != nullptr) {
            builder.string("general.architecture", architecture);
        }
        Checkpoint::open(write(builder
                                   .tensor("model.diffusion_model.head.modulation", {8, 2, 1}, kF32,
                                           std::string(64, '\0'))
                                   .bytes()),
                         network_kind(kind))
            .at("head.modulation");
    };
    EXPECT_NO_THROW(open("wan", "wan-dit"));
    EXPECT_NO_THROW(open(nullptr, "wan-dit"));  // of stable-diffusion.cpp
    expect_error(ErrorCode::unsupported, {"'flux'", "'wan'"}, [&] { open("flux", "wan-dit"); });
    expect_error(ErrorCode::unsupported, {"'llama'", "'t5encoder'"},
                 [&] { open("llama", "umt5"); });
}

TEST_F(GgufReader, TextEncoderUnderLlamaCppsNames) {
    if (golden_root().empty()) {
        GTEST_SKIP() << "no reference cases";
    }
    const auto& kind = network_kind("umt5");
    const auto checkpoint = Checkpoint::open(golden_root() / "gguf-umt5" / "model.gguf", kind);
    const auto config = kind.infer(checkpoint);
    EXPECT_EQ(config.at("num_heads"), 4);
    EXPECT_EQ(config.at("vocab"), 96);
    EXPECT_EQ(config.at("num_layers"), 2);
    EXPECT_EQ(config.at("num_buckets"), 32);
    const auto network = kind.describe(config, &checkpoint, "test");
    for (const auto& tensor : network.tensors) {
        EXPECT_NO_THROW(checkpoint.at(tensor.name, tensor.shape));
    }
    EXPECT_EQ(checkpoint.names().size(), network.tensors.size());
}

TEST_F(GgufReader, TheDecoderOfAWholeTextModelIsLeftOut) {
    const auto one = float_bytes({1});
    const auto checkpoint =
        Checkpoint::open(write(GgufBuilder()
                                   .string("general.architecture", "t5")
                                   .tensor("enc.blk.11.ffn_up.weight", {1}, 0, one)
                                   .tensor("dec.blk.0.attn_q.weight", {1}, 0, one)
                                   .tensor("output.weight", {1}, 0, one)
                                   .tensor("token_embd.weight", {1}, 0, one)
                                   .bytes()),
                         network_kind("umt5"));
    EXPECT_EQ(checkpoint.names(),
              (std::vector<std::string>{"blocks.11.ffn.fc1.weight", "token_embedding.weight"}));
}

}  // namespace
}  // namespace quantsparse::format::test
