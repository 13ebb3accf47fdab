// What the device chooses per row, by counting.
#include "attention/block_rule.hpp"

#include <gtest/gtest.h>

namespace quantsparse::attention {
namespace {

TEST(BlockRule, KeepsTheDensityOfAllPairs) {
    for (const double density : {0.1, 0.25, 0.5}) {
        const auto rule = make_block_rule({8192, 0, 8192, 0}, 64, density, 0);
        EXPECT_EQ(rule.blocks(), 128);
        EXPECT_NEAR(rule.density(), density, 0.5 / 128);
        // Text sees everything and is seen: the grid's rows get less.
        const auto text = make_block_rule({8192, 0, 8192 - 256, 0}, 64, density, 0);
        EXPECT_NEAR(text.density(), density, 0.5 / 128);
        EXPECT_LT(text.keep, rule.keep);
    }
    const auto all = make_block_rule({8192, 100, 8000, 500}, 64, 1, 0);
    EXPECT_EQ(all.keep, 128);
    EXPECT_EQ(all.density(), 1);
    EXPECT_EQ(make_block_rule({8192, 0, 8192, 0}, 64, 0.1, 1).density(), 1)
        << "all of the softmax is all blocks";
}

TEST(BlockRule, BlocksThatHoldAnyOfTheSinkOrTextAreSeenByAll) {
    const auto rule = make_block_rule({1000, 70, 900, 36}, 64, 0.01, 0);  // 16 blocks
    EXPECT_EQ(rule.prefix, 2);   // the sink ends at token 106
    EXPECT_EQ(rule.suffix, 14);  // the text behind begins in block 14, at token 896
    EXPECT_EQ(rule.full_end, 2);
    EXPECT_EQ(rule.full_begin, 14);
    EXPECT_EQ(rule.forced(0), 2 + 2);
    EXPECT_EQ(rule.forced(2), 2 + 2 + 2);
    EXPECT_EQ(rule.forced(7), 2 + 3 + 2);
    EXPECT_EQ(rule.forced(13), 2 + 2 + 2);
    EXPECT_EQ(rule.keep, 1);
    std::uint64_t entries = 4 * 16;
    for (int row = 2; row < 14; ++row) entries += static_cast<std::uint64_t>(rule.forced(row));
    EXPECT_EQ(rule.most_entries(), entries);
}

TEST(BlockRule, SaysWhetherListsCanBeBound) {
    const auto rule = make_block_rule({75600, 0, 75600, 3600}, 64, 0.25, 0);  // 1,182 blocks
    program::Limits limits;
    limits.max_binding_bytes = 128 << 20;
    EXPECT_TRUE(rule.fits(limits, 40, false));  // 40 x 1,182 x 296 entries of 4 bytes
    EXPECT_FALSE(rule.fits(limits, 40, true));  // 40 x 1,182 x 1,182
    EXPECT_TRUE(rule.fits(limits, 24, true));
    const auto by_share = make_block_rule({75600, 0, 75600, 3600}, 64, 0.25, 0.9);
    EXPECT_FALSE(by_share.fits(limits, 40, false)) << "every row may need all blocks";
}

TEST(BlockRule, AFewTokensAreOneBlock) {
    const auto rule = make_block_rule({3, 1, 2, 1}, 64, 0.25, 0.5);
    EXPECT_EQ(rule.blocks(), 1);
    EXPECT_EQ(rule.most_entries(), 1u);
    EXPECT_EQ(rule.forced(0), 1);
}

}  // namespace
}  // namespace quantsparse::attention
