#include "format/safetensors.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <limits>

#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

constexpr const char* kTwoFloats = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";

class SafetensorsFileTest : public testing::Test {
  protected:
    std::filesystem::path file(const std::string& bytes) {
        const auto path = folder_ / "test.safetensors";
        write_text(path, bytes);
        return path;
    }
    void expect_rejected(const std::string& bytes, const std::vector<std::string>& pieces) {
        const auto path = file(bytes);
        auto all = pieces;
        all.push_back("test.safetensors");
        expect_error(ErrorCode::bad_file, all, [&] { SafetensorsFile reader(path); });
    }
    TemporaryFolder folder_;
};

TEST_F(SafetensorsFileTest, ReadsAFileMadeByHand) {
    const float values[2] = {1.5f, -2.0f};
    const std::string data(reinterpret_cast<const char*>(values), sizeof values);
    const SafetensorsFile reader(file(safetensors_bytes(
        R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}})",
        data)));
    EXPECT_EQ(reader.metadata().at("k"), "v");
    EXPECT_EQ(reader.at("a").shape, (std::vector<std::int64_t>{1, 2}));
    EXPECT_EQ(to_float(reader.at("a")), (std::vector<float>{1.5f, -2.0f}));
    EXPECT_EQ(reader.find("b"), nullptr);
    expect_error(ErrorCode::bad_file, {"no tensor 'b'"}, [&] { reader.at("b"); });
}

TEST_F(SafetensorsFileTest, MissingFileIsAnIoErrorThatNamesIt) {
    expect_error(ErrorCode::io, {"nowhere.safetensors", "No such file"},
                 [&] { SafetensorsFile reader(folder_ / "nowhere.safetensors"); });
    expect_error(ErrorCode::io, {"not a regular file"},
                 [&] { SafetensorsFile reader(folder_.path()); });
}

TEST_F(SafetensorsFileTest, RejectsAFileShorterThanTheHeaderLength) {
    expect_error(ErrorCode::unsupported, {"0 bytes"}, [&] { SafetensorsFile(file("")); });
    expect_rejected("\x01\x02", {"2 bytes"});
}

TEST_F(SafetensorsFileTest, RejectsAHeaderLongerThanTheFile) {
    expect_rejected(safetensors_bytes(kTwoFloats, "", 1000), {"header length 1000 passes the end"});
    expect_rejected(safetensors_bytes(kTwoFloats, "", ~std::uint64_t{0}),
                    {"header length 18446744073709551615 passes the end"});
}

TEST_F(SafetensorsFileTest, RejectsATruncatedFile) {
    expect_rejected(safetensors_bytes(kTwoFloats, "1234567"),
                    {"tensor 'a' ends at byte 8 of 7 data bytes", "truncated"});
}

TEST_F(SafetensorsFileTest, RejectsAHeaderThatIsNoJson) {
    expect_rejected(safetensors_bytes("{\"a\":", ""), {"not valid JSON"});
    expect_rejected(safetensors_bytes("[1,2]", ""), {"not a JSON object"});
    expect_rejected(safetensors_bytes("{\"\xFF\xFE\":1}", ""), {"not valid JSON"});
}

TEST_F(SafetensorsFileTest, RejectsDeepNestingBeforeItCostsMemory) {
    expect_rejected(safetensors_bytes(std::string(R"({"a":)").append(100000, '['), ""),
                    {"nests too deeply"});
}

TEST_F(SafetensorsFileTest, OpensATensorOfAnUnknownDtypeButDoesNotReadIt) {
    const SafetensorsFile reader(file(safetensors_bytes(
        R"({"a":{"dtype":"F4","shape":[16],"data_offsets":[0,8]}})", "12345678")));
    EXPECT_EQ(reader.at("a").dtype, DType::other);
    EXPECT_THROW(to_float(reader.at("a")), Error);
}

TEST_F(SafetensorsFileTest, RejectsASizeThatDoesNotMatchTheShape) {
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", "12345678"),
        {"tensor 'a' occupies 8 bytes where F32 [3] needs 12"});
}

TEST_F(SafetensorsFileTest, RejectsOverlappingRanges) {
    expect_rejected(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},)"
                                      R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                                      "12345678"),
                    {"'a' and 'b' overlap at data byte 4"});
}

TEST_F(SafetensorsFileTest, RejectsShapesThatOverflow) {
    expect_rejected(safetensors_bytes(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],)"
                                      R"("data_offsets":[0,0]}})",
                                      ""),
                    {"tensor 'a' overflows 64 bits"});
    expect_rejected(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[99999999999999999999],)"
                                      R"("data_offsets":[0,0]}})",
                                      ""),
                    {"no non-negative integer"});
}

TEST_F(SafetensorsFileTest, RejectsNegativeAndBackwardOffsetsAndDimensions) {
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,8]}})", "12345678"),
        {"dimension that is no non-negative integer"});
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[-2,0]}})", "12345678"),
        {"begin offset that is no non-negative integer"});
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[4,2]}})", "12345678"),
        {"begins at 4 and ends before that, at 2"});
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2.5],"data_offsets":[0,2]}})", "12345678"),
        {"dimension that is no non-negative integer"});
}

TEST_F(SafetensorsFileTest, RejectsDuplicateKeys) {
    expect_rejected(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                      R"("a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                                      "1234"),
                    {"names 'a' twice"});
    expect_rejected(
        safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"shape":[3],"data_offsets":[0,2]}})",
                          "1234"),
        {"names 'shape' twice"});
}

TEST_F(SafetensorsFileTest, RejectsEntriesThatLackTheirFields) {
    expect_rejected(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2]}})", "12"),
                    {"entry of tensor 'a' lacks"});
    expect_rejected(safetensors_bytes(R"({"a":[]})", "12"), {"entry of tensor 'a' lacks"});
    expect_rejected(safetensors_bytes(R"({"__metadata__":{"k":1}})", ""), {"'k' is not a string"});
}

TEST_F(SafetensorsFileTest, AHostileNameStaysOnOneLine) {
    expect_rejected(safetensors_bytes(R"({"a\nb\u001b[31m":{"dtype":"F32","shape":[],)"
                                      R"("data_offsets":[0,0]}})",
                                      ""),
                    {"tensor 'a?b?[31m'"});
}

TEST_F(SafetensorsFileTest, AcceptsEmptyTensorsScalarsAndUnalignedData) {
    const float value = 3.25f;
    std::string data(5, 'x');
    std::memcpy(data.data() + 1, &value, sizeof value);
    const SafetensorsFile reader(
        file(safetensors_bytes(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[1,1]},)"
                               R"("s":{"dtype":"F32","shape":[],"data_offsets":[1,5]},)"
                               R"("u":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                               data)));
    EXPECT_TRUE(to_float(reader.at("e")).empty());
    EXPECT_EQ(to_float(reader.at("s")), std::vector<float>{3.25f});
    EXPECT_EQ(to_int32(reader.at("u")), std::vector<std::int32_t>{'x'});
}

TEST(SafetensorsNumbers, HalfRoundsToNearestEvenOverTheWholeRange) {
    EXPECT_EQ(half_from_float(1.0f), 0x3C00);
    EXPECT_EQ(half_from_float(-2.0f), 0xC000);
    EXPECT_EQ(half_from_float(65504.0f), 0x7BFF);
    EXPECT_EQ(half_from_float(65519.99f), 0x7BFF);
    EXPECT_EQ(half_from_float(65520.0f), 0x7C00);
    EXPECT_EQ(half_from_float(1e30f), 0x7C00);
    EXPECT_EQ(half_from_float(1.0f + 1.0f / 2048), 0x3C00);  // a tie goes to the even neighbour
    EXPECT_EQ(half_from_float(1.0f + 3.0f / 2048), 0x3C02);
    EXPECT_EQ(half_from_float(std::ldexp(1.0f, -24)), 0x0001);
    EXPECT_EQ(half_from_float(std::ldexp(1.0f, -25)), 0x0000);
    EXPECT_EQ(half_from_float(std::ldexp(1.5f, -25)), 0x0001);
    EXPECT_EQ(half_from_float(std::ldexp(1023.75f, -24)), 0x0400);  // into the normal range
    EXPECT_TRUE(std::isnan(float_from_half(half_from_float(std::nanf("")))));
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float value = float_from_half(static_cast<std::uint16_t>(bits));
        if (!std::isnan(value)) {
            ASSERT_EQ(half_from_float(value), bits);
        }
    }
}

TEST(SafetensorsNumbers, WidensEveryFloatType) {
    const auto view = [](DType dtype, const auto& values) {
        return TensorView{"t", dtype, {static_cast<std::int64_t>(values.size())}, bytes_of(values)};
    };
    const std::vector<std::uint16_t> bf16 = {0x3F80, 0xC040};
    EXPECT_EQ(to_float(view(DType::bf16, bf16)), (std::vector<float>{1.0f, -3.0f}));
    const std::vector<double> f64 = {0.1};
    EXPECT_EQ(to_float(view(DType::f64, f64)), std::vector<float>{0.1f});
    // 0x38 = 1, 0xC0 = -2, 0x01 = 2^-9, 0x7E = 448, 0x7F = NaN
    const std::vector<std::uint8_t> f8 = {0x38, 0xC0, 0x01, 0x7E, 0x7F};
    const auto wide = to_float(view(DType::f8_e4m3, f8));
    EXPECT_EQ(wide[0], 1.0f);
    EXPECT_EQ(wide[1], -2.0f);
    EXPECT_EQ(wide[2], std::ldexp(1.0f, -9));
    EXPECT_EQ(wide[3], 448.0f);
    EXPECT_TRUE(std::isnan(wide[4]));
    expect_error(ErrorCode::bad_file, {"tensor 't'", "U32", "floating point"}, [&] {
        const std::vector<std::uint32_t> words = {1};
        to_float(view(DType::u32, words));
    });
    expect_error(ErrorCode::bad_file, {"too large"}, [&] {
        const std::vector<std::int64_t> large = {std::int64_t{1} << 40};
        to_int32(view(DType::i64, large));
    });
}

TEST(SafetensorsWriterTest, WhatIsWrittenIsReadBack) {
    const TemporaryFolder folder;
    const auto path = folder / "out.safetensors";
    const std::vector<float> a = {1, 2, 3, 4, 5, 6};
    const std::vector<std::uint32_t> b = {7, 8};
    SafetensorsWriter writer(path);
    writer.set_metadata("format", "test \"quoted\"");
    writer.declare("a", DType::f32, {2, 3});
    writer.declare("empty", DType::f32, {0});
    writer.declare("b", DType::u32, {2});
    writer.write("a", bytes_of(a).first(8));
    writer.write("a", bytes_of(a).subspan(8));
    writer.write("empty", {});
    writer.write("b", bytes_of(b));
    EXPECT_FALSE(std::filesystem::exists(path)) << "visible before it is complete";
    writer.finish();
    const SafetensorsFile reader(path);
    EXPECT_EQ(reader.metadata().at("format"), "test \"quoted\"");
    EXPECT_EQ(to_float(reader.at("a")), a);
    EXPECT_EQ(to_int32(reader.at("b")), (std::vector<std::int32_t>{7, 8}));
    EXPECT_EQ(reader.tensors().size(), 3U);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(SafetensorsWriterTest, AnUnfinishedFileLeavesNothingBehindAndKeepsTheOldOne) {
    const TemporaryFolder folder;
    const auto path = folder / "out.safetensors";
    write_text(path, "old");
    {
        SafetensorsWriter writer(path);
        writer.declare("a", DType::f32, {2});
        const std::vector<float> half = {1};
        writer.write("a", bytes_of(half));
        expect_error(ErrorCode::invalid_argument, {"'a'", "not written completely"},
                     [&] { writer.finish(); });
    }
    EXPECT_EQ(std::filesystem::file_size(path), 3U);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(SafetensorsWriterTest, RefusesWrongOrderAndTooManyBytes) {
    const TemporaryFolder folder;
    SafetensorsWriter writer(folder / "out.safetensors");
    writer.declare("a", DType::u8, {1});
    writer.declare("b", DType::u8, {1});
    expect_error(ErrorCode::invalid_argument, {"'a'", "taken"},
                 [&] { writer.declare("a", DType::u8, {1}); });
    const std::vector<std::uint8_t> two = {1, 2};
    expect_error(ErrorCode::invalid_argument, {"'b' is not the next"},
                 [&] { writer.write("b", bytes_of(two).first(1)); });
    expect_error(ErrorCode::invalid_argument, {"more than its 1 bytes"},
                 [&] { writer.write("a", bytes_of(two)); });
}

TEST(SafetensorsWriterTest, UnwritablePlacesAreIoErrors) {
    const TemporaryFolder folder;
    expect_error(ErrorCode::io, {"missing/out.safetensors", "No such file"},
                 [&] { SafetensorsWriter writer(folder / "missing/out.safetensors"); });
    expect_error(ErrorCode::io, {"is a folder"}, [&] { SafetensorsWriter writer(folder.path()); });
}

TEST(SafetensorsWriterTest, AFullDiskIsAnIoErrorAndLeavesNothing) {
    // A file-size limit makes write() fail the way a full disk does, without one.
    const TemporaryFolder folder;
    struct rlimit before {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    struct rlimit small = before;
    small.rlim_cur = 64 * 1024;
    auto* const old_handler = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    expect_error(ErrorCode::io, {"can't write", "out.safetensors", "free some space"}, [&] {
        SafetensorsWriter writer(folder / "out.safetensors");
        writer.declare("a", DType::u8, {1 << 20});
        writer.write("a", bytes_of(std::vector<std::uint8_t>(1 << 20)));
        writer.finish();
    });
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old_handler);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace quantsparse::format::test
