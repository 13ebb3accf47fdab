// Values and prompts of the command line.
#include <gtest/gtest.h>

#include "prompt_text.hpp"
#include "unit/format_support.hpp"
#include "values.hpp"

namespace quantsparse::video {
namespace {

TEST(VideoValues, ListsOfNumbersHaveCommas) {
    EXPECT_EQ(parse_numbers("1,0.9375, 0.5", "sigmas"), (std::vector<double>{1, 0.9375, 0.5}));
    EXPECT_EQ(parse_numbers("1000", "timesteps"), std::vector<double>{1000});
    for (const char* text : {"", ",", "1,", "1,,2", "1;2", "1 2", "a", "1,nan", "1,inf"}) {
        EXPECT_THROW(parse_numbers(text, "sigmas"), Error) << text;
    }
}

TEST(VideoValues, RatesAreFractionsOrDecimals) {
    const auto expect = [](const char* text, long numerator, long denominator) {
        const FrameRate rate = parse_frame_rate(text);
        EXPECT_EQ(rate.numerator, numerator) << text;
        EXPECT_EQ(rate.denominator, denominator) << text;
    };
    expect("24", 24, 1);
    expect("24000/1001", 24000, 1001);
    expect("29.97", 2997, 100);
    expect("1/2", 1, 2);
    for (const char* text :
         {"0", "0/1", "24/0", "-24", "24/-1", "1001", "2000/1", "24/", "/1001", "24/1001/2", "x",
          "", "nan", "0.001", "1/200", "99999999999999999999/1"}) {
        EXPECT_THROW(parse_frame_rate(text), Error) << text;
    }
}

TEST(VideoPrompt, SyntaxOfOtherProgramsIsNamed) {
    const auto lines = foreign_syntax("prompt", "a (red:1.5) circle <LoRA:lightx2v:1.0>");
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_NE(lines[0].find("<LoRA:lightx2v:1.0>"), std::string::npos);
    EXPECT_NE(lines[1].find("(red:1.5)"), std::string::npos);
    for (const char* plain :
         {"a red circle", "at 12:30 (noon)", "a < b: c > d", "(a ratio: 3)", ""}) {
        EXPECT_TRUE(foreign_syntax("prompt", plain).empty()) << plain;
    }
    EXPECT_TRUE(foreign_syntax("prompt", std::string(100'000, '(')).empty());
}

TEST(VideoPrompt, AFolderIsNoPromptFile) {
    const format::test::TemporaryFolder folder;
    format::test::expect_error(ErrorCode::io, {"is a folder"},
                               [&] { read_prompt(folder.path().string()); });
    format::test::write_text(folder / "prompt.txt", "two\nlines");
    EXPECT_EQ(read_prompt((folder / "prompt.txt").string()), "two\nlines");
}

TEST(Refreshes, AreAListOfStepsOrANumber) {
    EXPECT_EQ(parse_steps("0, 4,999", "refresh_steps"), (std::vector<int>{0, 4, 999}));
    for (const char* wrong : {"0,4.5", "-1", "1000", "0,", "x"}) {
        EXPECT_THROW(parse_steps(wrong, "refresh_steps"), Error) << wrong;
    }
    EXPECT_EQ(parse_refreshes("auto"), std::nullopt);
    EXPECT_EQ(parse_refreshes("auto=3"), 3);
    for (const char* wrong : {"", "3", "auto=", "auto=0", "auto=2x", "auto=-1", "automatic"}) {
        EXPECT_THROW(parse_refreshes(wrong), Error) << wrong;
    }
}

}  // namespace
}  // namespace quantsparse::video
