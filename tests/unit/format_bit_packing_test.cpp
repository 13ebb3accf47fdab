#include "format/bit_packing.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "format/model_file.hpp"
#include "unit/format_support.hpp"

namespace quantsparse::format::test {
namespace {

std::vector<std::int8_t> random_codes(int n, int k, int bits, unsigned seed) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> code(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
    std::vector<std::int8_t> codes(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
    for (auto& value : codes) {
        value = static_cast<std::int8_t>(code(generator));
    }
    return codes;
}

TEST(BitPacking, PackingAndUnpackingAreInverseForRaggedSizes) {
    for (const int bits : {3, 4, 6, 8}) {
        for (const auto& [n, k] : {std::pair{36, 100}, {1, 1}, {4, 32}, {7, 33}, {13, 320}}) {
            const auto codes = random_codes(n, k, bits, static_cast<unsigned>(n * k + bits));
            const auto words = pack_weight_codes(codes, n, k, bits);
            EXPECT_EQ(words.size(), packed_word_count(n, k, bits));
            EXPECT_EQ(unpack_weight_codes(words, n, k, bits), codes)
                << bits << " " << n << " " << k;
        }
    }
    const auto activations = random_codes(5, 37, 8, 1);
    EXPECT_EQ(unpack_activation_codes(pack_activation_codes(activations, 5, 37), 5, 37),
              activations);
}

TEST(BitPacking, FourBitWordsSplitIntoTwoOperandsOfFourBytes) {
    std::vector<std::int8_t> codes(32);
    for (int i = 0; i < 32; ++i) {
        codes[static_cast<std::size_t>(i)] = static_cast<std::int8_t>(i % 16 - 8);
    }
    const auto words = pack_weight_codes(codes, 1, 32, 4);
    ASSERT_EQ(words.size(), 4U * 4U);                     // four words of K, N padded to 4
    EXPECT_EQ(words[0] & 0x0F0F0F0FU, 0x03020100U);       // codes 0..3
    EXPECT_EQ(words[0] >> 4 & 0x0F0F0F0FU, 0x07060504U);  // codes 4..7
    EXPECT_EQ(words[4] & 0x0F0F0F0FU, 0x0B0A0908U);       // the next word of the same channel
    EXPECT_EQ(words[1], 0x88888888U) << "a padding channel holds the code of zero";
}

TEST(BitPacking, SixBitWordsKeepTheHighBitsInASecondPlane) {
    std::vector<std::int8_t> codes(32, 0);
    codes[0] = 31;   // stored 63: low nibble 15, high bits 3
    codes[5] = -32;  // stored 0
    codes[6] = -15;  // stored 17: low nibble 1, high bits 1
    const auto words = pack_weight_codes(codes, 1, 32, 6);
    ASSERT_EQ(words.size(), (4U + 2U) * 4U);
    EXPECT_EQ(words[0] & 0x0F0F0F0FU, 0x0000000FU);
    EXPECT_EQ(words[0] >> 4 & 0x0F0F0F0FU, 0x00010000U);
    const std::uint32_t high = words[16];
    EXPECT_EQ(high & 0x03030303U, 0x02020203U);       // codes 0..3; code 0 is stored as 32
    EXPECT_EQ(high >> 2 & 0x03030303U, 0x02010002U);  // codes 4..7
}

TEST(BitPacking, ThreeBitWordsKeepTheHighBitsInASecondPlane) {
    std::vector<std::int8_t> codes(32, 0);  // stored 4: low bits 0, high bit 1
    codes[0] = 3;                           // stored 7
    codes[5] = -4;                          // stored 0
    codes[18] = -2;                         // stored 2: in the second word of the first plane
    const auto words = pack_weight_codes(codes, 1, 32, 3);
    ASSERT_EQ(words.size(), (2U + 1U) * 4U);
    EXPECT_EQ(words[0], 0x00000003U);
    EXPECT_EQ(words[4] & 0x03030303U, 0x00020000U);  // codes 16..19
    const std::uint32_t high = words[8];
    EXPECT_EQ(high & 0x01010101U, 0x01010101U);       // codes 0..3
    EXPECT_EQ(high >> 1 & 0x01010101U, 0x01010001U);  // codes 4..7
    EXPECT_EQ(high >> 4 & 0x01010101U, 0x01000101U);  // codes 16..19
}

TEST(BitPacking, EightBitWordsHoldSignedBytes) {
    const std::vector<std::int8_t> codes = {-1, 2, -128, 127};
    const auto words = pack_weight_codes(codes, 1, 4, 8);
    EXPECT_EQ(words[0], 0x7F8002FFU);
    EXPECT_EQ(words[4], 0U) << "K is padded with zeros";
}

TEST(BitPacking, RefusesCodesOutOfRangeAndOtherWidths) {
    const std::vector<std::int8_t> codes = {8};
    expect_error(ErrorCode::invalid_argument, {"code 8", "4 bits"},
                 [&] { pack_weight_codes(codes, 1, 1, 4); });
    expect_error(ErrorCode::invalid_argument, {"5 bits"},
                 [&] { pack_weight_codes(codes, 1, 1, 5); });
    expect_error(ErrorCode::invalid_argument, {"matrix of 2 x 3"},
                 [&] { pack_weight_codes(codes, 2, 3, 4); });
}

TEST(BitPacking, QuantisationRoundsHalfToEvenAndClips) {
    const std::vector<float> row = {7.0f, 0.5f, 1.5f, 2.5f, -0.5f, -7.0f};
    const auto quantized = quantize_weight(row, 1, 6, 4);
    EXPECT_EQ(quantized.scale[0], 1.0f);
    EXPECT_EQ(quantized.codes, (std::vector<std::int8_t>{7, 0, 2, 2, 0, -7}));
    const std::vector<float> gamma = {0.5f};
    const auto clipped = quantize_weight(row, 1, 6, 4, gamma);
    EXPECT_EQ(clipped.scale[0], 0.5f);
    EXPECT_EQ(clipped.codes, (std::vector<std::int8_t>{7, 1, 3, 5, -1, -8}))
        << "weights may use -qmax-1";
    const auto zero = quantize_weight(std::vector<float>(3, 0.0f), 1, 3, 4);
    EXPECT_EQ(zero.scale[0], 1.0f);
    EXPECT_EQ(zero.codes, (std::vector<std::int8_t>(3, 0)));
    expect_error(ErrorCode::non_finite, {"row 1"}, [] {
        quantize_rows(std::vector<float>{1, 2, std::nanf(""), 1}, 2, 2, 8);
    });
}

TEST(Hadamard, BlockIsTheLargestPowerOfTwoUpTo128ThatDivides) {
    EXPECT_EQ(hadamard_block(1536), 128);
    EXPECT_EQ(hadamard_block(8960), 128);
    EXPECT_EQ(hadamard_block(192), 64);
    EXPECT_EQ(hadamard_block(72), 8);
    EXPECT_EQ(hadamard_block(33), 1);
}

TEST(Hadamard, KeepsProductsAndIsItsOwnInverseUpToSigns) {
    const int k = 96;  // three blocks of 32
    const auto x = test_values(k, 3, 1.0f);
    const auto w = test_values(k, 4, 1.0f);
    std::vector<float> signs(k);
    for (std::size_t i = 0; i < signs.size(); ++i) {
        signs[i] = i % 3 == 0 ? -1.0f : 1.0f;
    }
    auto rotated_x = x;
    auto rotated_w = w;
    apply_hadamard(rotated_x, k, signs);
    apply_hadamard(rotated_w, k, signs);
    double before = 0;
    double after = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        before += static_cast<double>(x[i]) * w[i];
        after += static_cast<double>(rotated_x[i]) * rotated_w[i];
    }
    EXPECT_NEAR(before, after, 1e-5);
    EXPECT_GT(std::fabs(rotated_x[0] - x[0]), 1e-3f);
    auto back = rotated_x;
    apply_hadamard(back, k);
    for (std::size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(back[i] * signs[i], x[i], 1e-5f);
    }
}

TEST(Hadamard, SecondColumnAlternates) {
    std::vector<float> unit(4, 0.0f);
    unit[1] = 1.0f;
    apply_hadamard(unit, 4);
    EXPECT_EQ(unit, (std::vector<float>{0.5f, -0.5f, 0.5f, -0.5f}));
}

TEST(GoldenQuantisation, CodesAndScalesEqualTheReference) {
    const auto root = golden_root();
    if (root.empty()) {
        GTEST_SKIP() << "no reference data: QUANTSPARSE_GOLDEN is not set";
    }
    const SafetensorsFile io(root / "quant-linear" / "io.safetensors");
    const auto compare = [&](const QuantizedWeight& ours, const std::string& name) {
        const auto codes = to_int32(io.at(name + ".codes"));
        ASSERT_EQ(codes.size(), ours.codes.size());
        EXPECT_TRUE(std::equal(codes.begin(), codes.end(), ours.codes.begin())) << name;
        auto scale = to_float(io.at(name + ".scale"));
        std::replace(scale.begin(), scale.end(), 0.0f, 1.0f);  // theirs for an all-zero row
        EXPECT_EQ(scale, ours.scale) << name;
    };
    const auto& weight = io.at("in.weight");
    const auto& x = io.at("in.x");
    const auto size = [](const TensorView& view, std::size_t axis) {
        return static_cast<int>(view.shape[axis]);
    };
    for (const int bits : {4, 6, 8}) {
        compare(quantize_weight(to_float(weight), size(weight, 0), size(weight, 1), bits),
                fmt::format("w{}", bits));
    }
    for (const int bits : {6, 8}) {
        compare(quantize_rows(to_float(x), size(x, 0), size(x, 1), bits), fmt::format("a{}", bits));
    }
}

TEST(GoldenRotation, HadamardEqualsTheReference) {
    const auto root = golden_root();
    if (root.empty()) {
        GTEST_SKIP() << "no reference data: QUANTSPARSE_GOLDEN is not set";
    }
    const SafetensorsFile io(root / "quant-rotation" / "io.safetensors");
    for (const auto& [name, columns] : {std::pair{"hadamard64", 64}, {"hadamard96_blocks32", 96}}) {
        const std::string run = name;
        const auto signs = to_float(io.at(run + ".in.signs"));
        for (const auto& [in, out] :
             {std::pair{".in.x", ".out.x_rotated"}, {".in.weight", ".out.weight_rotated"}}) {
            auto rows = to_float(io.at(run + in));
            apply_hadamard(rows, columns, signs);
            const auto expected = to_float(io.at(run + out));
            for (std::size_t i = 0; i < rows.size(); ++i) {
                ASSERT_NEAR(rows[i], expected[i], 1e-5 * (1 + std::fabs(expected[i]))) << run;
            }
        }
    }
}

}  // namespace
}  // namespace quantsparse::format::test
