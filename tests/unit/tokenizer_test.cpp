// The tokenizer against a small model written here piece by piece, in the protocol-buffer encoding
// of sentencepiece (ModelProto.pieces = field 1: text = 1, score = 2, type = 3).
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "format/tokenizer.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

constexpr char kNormal = 1, kUnknown = 2, kControl = 3;
const std::string kBlank = "\xE2\x96\x81";  // the mark sentencepiece puts for a space

std::string piece(const std::string& text, float score, char type) {
    std::string body = "\x0A";
    body += static_cast<char>(text.size());
    body += text;
    body += '\x15';
    char bytes[sizeof score];
    std::memcpy(bytes, &score, sizeof score);
    body.append(bytes, sizeof bytes);
    body += '\x18';
    body += type;
    return std::string("\x0A") + static_cast<char>(body.size()) + body;
}

// Ids: 0 pad, 1 end, 2 unknown, 3 blank, then words.
std::string tiny_model() {
    return piece("<pad>", 0, kControl) + piece("</s>", 0, kControl) + piece("<unk>", 0, kUnknown) +
           piece(kBlank, -5, kNormal) + piece(kBlank + "red", -1, kNormal) +
           piece(kBlank + "circle", -1, kNormal) + piece("s", -2, kNormal);
}

Tokenizer open(const std::string& model) {
    return Tokenizer(std::as_bytes(std::span(model)));
}

TEST(Tokenizer, EndsWithOneAndPadsWithZero) {
    const TokenIds tokens = open(tiny_model()).encode("red circles", 6);
    EXPECT_EQ(tokens.ids, (std::vector<int>{4, 5, 6, 1, 0, 0}));
    EXPECT_EQ(tokens.valid_count, 4);
    EXPECT_FALSE(tokens.truncated);
}

TEST(Tokenizer, CollapsesEveryKindOfWhiteSpace) {
    const Tokenizer tokenizer = open(tiny_model());
    const auto expected = tokenizer.encode("red circle", 5).ids;
    EXPECT_EQ(tokenizer.encode("  red \t\r\n circle\n", 5).ids, expected);
    EXPECT_EQ(tokenizer
                  .encode("\xE3\x80\x80red\xC2\xA0\xE2\x80\x83"
                          "circle",
                          5)
                  .ids,
              expected);
}

TEST(Tokenizer, EmptyPromptIsTheEndTokenAlone) {
    const Tokenizer tokenizer = open(tiny_model());
    for (const char* prompt : {"", "   ", "\n"}) {
        const TokenIds tokens = tokenizer.encode(prompt, 3);
        EXPECT_EQ(tokens.ids, (std::vector<int>{1, 0, 0}));
        EXPECT_EQ(tokens.valid_count, 1);
    }
}

TEST(Tokenizer, TruncationKeepsTheEndToken) {
    const Tokenizer tokenizer = open(tiny_model());
    const TokenIds exact = tokenizer.encode("red red red", 4);
    EXPECT_EQ(exact.ids, (std::vector<int>{4, 4, 4, 1}));
    EXPECT_FALSE(exact.truncated);
    const TokenIds cut = tokenizer.encode("red red red red", 4);
    EXPECT_EQ(cut.ids, (std::vector<int>{4, 4, 4, 1}));
    EXPECT_EQ(cut.valid_count, 4);
    EXPECT_TRUE(cut.truncated);
}

TEST(Tokenizer, UnknownCharactersBecomeTwo) {
    const TokenIds tokens = open(tiny_model()).encode("\xF0\x9F\x8E\xAC", 4);  // a clapper board
    EXPECT_EQ(tokens.ids, (std::vector<int>{3, 2, 1, 0}));
}

TEST(Tokenizer, RejectsInvalidUtf8WithItsPosition) {
    const Tokenizer tokenizer = open(tiny_model());
    const std::vector<std::string> bad = {
        "red \xFF",              // no such byte
        "red \xC0\xAF",          // overlong
        "red \xE0\x80\xAF",      // overlong in three bytes
        "red \xED\xA0\x80",      // surrogate
        "red \xF4\x90\x80\x80",  // above U+10FFFF
        "red \xE2\x96",          // cut short
        "red \x96",              // continuation alone
        "red \xE2s\x81",         // broken in the middle
    };
    for (const std::string& prompt : bad) {
        try {
            tokenizer.encode(prompt, 8);
            ADD_FAILURE() << "accepted " << testing::PrintToString(prompt);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
            EXPECT_NE(std::string(error.what()).find("byte 4"), std::string::npos) << error.what();
        }
    }
}

TEST(Tokenizer, RejectsWhatIsNoModel) {
    EXPECT_THROW(open(""), Error);
    EXPECT_THROW(open("not a model at all"), Error);
    const std::string model = tiny_model();
    EXPECT_THROW(open(model.substr(0, model.size() - 3)), Error);
    EXPECT_THROW(open(model).encode("red", 0), Error);
}

}  // namespace
}  // namespace quantsparse::format
