// Blocks that the device chooses for each head, against sorting on the host.
#include <set>

#include "block_choice_support.hpp"

namespace quantsparse::tests {
namespace {

TEST_F(BlockChoiceTest, TheHighestScoresOfEachRowAndHead) {
    check({3, 64, 1, 640}, rule_for(640, 64, 3));
    check({2, 20, 1, 1000}, rule_for(1000, 32, 8));
    check({1, 128, 1, 4100}, rule_for(4100, 128, 5));
    check({2, 6, 7, 311}, rule_for(7 * 311, 32, 20));  // more than one word a row
}

TEST_F(BlockChoiceTest, SmallAndRaggedSizes) {
    check({1, 4, 1, 1}, rule_for(1, 64, 1));
    check({2, 4, 1, 65}, rule_for(65, 64, 1));
    check({2, 8, 1, 33 * 32}, rule_for(33 * 32, 32, 4));
    check({2, 8, 1, 64 * 32 + 1}, rule_for(64 * 32 + 1, 32, 64));
}

TEST_F(BlockChoiceTest, SinksNeighboursAndTextAreAlwaysChosen) {
    BlockRule rule = rule_for(1000, 32, 9);
    rule.prefix = 3;
    rule.suffix = 30;
    rule.full_end = 1;
    rule.full_begin = 30;
    rule.reach = 2;
    check({2, 20, 1, 1000}, rule);
    rule.keep = 1;  // fewer than must be
    check({2, 20, 1, 1000}, rule);
    rule.prefix = rule.suffix = rule.full_begin = 0;
    check({1, 20, 1, 1000}, rule);
    EXPECT_EQ(rule.most_entries(), 32u * 32u);
}

TEST_F(BlockChoiceTest, WhatAlwaysIsChosenIsAmongTheBestOrBesideThem) {
    BlockRule rule = rule_for(1400, 32, 6);  // 44 blocks: two words a row
    rule.prefix = 1;
    rule.reach = 0;
    for (int row = 0; row < 44; ++row) {
        Words bits(2, 0);
        for (const int j : {(5 * row + 3) % 44, (7 * row + 40) % 44, 43}) {
            bits[static_cast<std::size_t>(j / 32)] |= 1u << j % 32;
        }
        always_.insert(always_.end(), bits.begin(), bits.end());
    }
    rule.most_always = 3;
    check({2, 20, 1, 1400}, rule);
    rule.beside = true;
    check({2, 20, 1, 1400}, rule);
    rule.keep = 44;
    check({1, 20, 1, 1400}, rule);
}

TEST_F(BlockChoiceTest, AShareOfTheSoftmaxBesideWhatTouches) {
    // Row i of head h asks for block (7 i + 3 h) % 16 with all of its softmax: with a share of 0.9
    // and one block at least that is all, and what touches comes on top (Jenga).
    const Shape s{2, 64, 1, 1024};
    Operands x{std::vector<float>(s.count(), 0.0f), std::vector<float>(s.count(), 0.0f),
               std::vector<float>(s.count(), 0.0f)};
    const auto target = [](int h, int i) { return (7 * i + 3 * h) % 16; };
    for (int h = 0; h < s.heads; ++h) {
        for (int t = 0; t < s.tokens(); ++t) {
            x.k[at(h * s.tokens() + t, t / 64, 64)] = 8;
            x.q[at(h * s.tokens() + t, target(h, t / 64), 64)] = 8;
        }
    }
    BlockRule rule = rule_for(1024, 64, 1);
    rule.reach = 0;
    rule.beside = true;
    rule.top_p = 0.9f;
    rule.most_always = 1;
    for (int i = 0; i < 16; ++i) always_.push_back(1u << (i + 1) % 16);
    const Rows rows = choose(s, x, rule);
    for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < 16; ++i) {
            const std::set<int> expected = {i, (i + 1) % 16, target(h, i)};
            EXPECT_EQ(rows[static_cast<std::size_t>(16 * h + i)],
                      std::vector<int>(expected.begin(), expected.end()));
        }
    }
}

TEST_F(BlockChoiceTest, NeighboursThatShareTheirQueriesMeanChooseAlikeWhereNothingIsForced) {
    BlockRule rule = rule_for(9 * 64 - 20, 64, 3);  // the last group is one short block
    rule.group = 2;
    rule.reach = -1;
    check({2, 20, 1, rule.tokens}, rule);
    const Shape s{1, 8, 1, rule.tokens};
    const Rows rows = choose(s, integer_operands(s, 64), rule);
    for (std::size_t row = 0; row < 8; row += 2) EXPECT_EQ(rows[row], rows[row + 1]) << row;
    for (const auto& row : rows) EXPECT_EQ(row.size(), 3u);
}

TEST_F(BlockChoiceTest, AClipAt720p) {
    // 81 frames: 75,600 tokens in 1,182 blocks of 64.
    check({1, 4, 21, 3600}, rule_for(75600, 64, 177));
}

TEST_F(BlockChoiceTest, SmallBindingsAreCutIntoChunks) {
    check({5, 8, 1, 700}, rule_for(700, 32, 5), 32 << 10);
}

TEST_F(BlockChoiceTest, EqualScoresGoToTheLowerBlocks) {
    const Shape s{1, 4, 1, 640};
    Operands x{std::vector<float>(s.count(), 0.0f), std::vector<float>(s.count(), -1.0f),
               std::vector<float>(s.count(), 0.0f)};
    BlockRule rule = rule_for(640, 64, 4);
    rule.reach = 0;
    const Rows rows = choose(s, x, rule);
    EXPECT_EQ(rows[0], (std::vector<int>{0, 1, 2, 3}));
    EXPECT_EQ(rows[9], (std::vector<int>{0, 1, 2, 9}));
}

TEST_F(BlockChoiceTest, BlocksAreAddedUntilTheyHoldAShareOfTheSoftmax) {
    const Shape s{2, 64, 1, 1500};
    BlockRule rule = rule_for(1500, 32, 2);
    rule.prefix = 1;
    Operands x = integer_operands(s, 32);
    for (float& value : x.q) value *= 8;
    const auto scores = scores_of(s, x, rule);
    for (const double p : {0.3, 0.7, 0.95}) {
        rule.top_p = static_cast<float>(p);
        const Rows actual = choose(s, x, rule);
        const Rows fewest = expected_rows(s, scores, rule, p - 1e-5);
        const Rows most = expected_rows(s, scores, rule, p + 1e-5);
        std::size_t more = 0, sure = 0;
        for (std::size_t i = 0; i < actual.size(); ++i) {
            if (fewest[i] != most[i]) continue;  // rounding may decide
            EXPECT_EQ(actual[i], fewest[i]) << "row " << i << ", p " << p;
            ++sure;
            more += actual[i].size() > 4;
        }
        EXPECT_GT(sure, actual.size() * 9 / 10);
        EXPECT_GT(more, 0u);
    }
}

TEST_F(BlockChoiceTest, ScoresThatAreNotFiniteComeLastAndListsKeepTheirSize) {
    const Shape s{1, 8, 1, 640};
    Operands x = integer_operands(s, 64);
    for (int t = 128; t < 192; ++t) {
        x.k[at(t, 0, 8)] = std::numeric_limits<float>::quiet_NaN();
    }
    for (int t = 448; t < 512; ++t) x.q[at(t, 3, 8)] = std::numeric_limits<float>::infinity();
    const BlockRule rule = rule_for(640, 64, 4);
    const Rows rows = choose(s, x, rule);
    for (int row = 0; row < 10; ++row) {
        const auto& chosen = rows[static_cast<std::size_t>(row)];
        EXPECT_EQ(chosen.size(), 4u);
        if (std::abs(row - 2) > 1 && row != 7) {
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), 2), 0) << row;
        }
    }
}

TEST_F(BlockChoiceTest, APlantedPatternIsFound) {
    // Block i of head h asks for block (7 i + 3 h) % 16, among noise.
    const Shape s{3, 64, 1, 1024};
    Operands x = random_operands(s);
    const auto target = [](int h, int i) { return (7 * i + 3 * h) % 16; };
    for (int h = 0; h < s.heads; ++h) {
        for (int t = 0; t < s.tokens(); ++t) {
            x.k[at(h * s.tokens() + t, t / 64, 64)] += 4;
            x.q[at(h * s.tokens() + t, target(h, t / 64), 64)] += 4;
        }
    }
    BlockRule rule = rule_for(1024, 64, 2);
    rule.reach = 0;
    const Rows rows = choose(s, x, rule);
    for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < 16; ++i) {
            const auto& chosen = rows[static_cast<std::size_t>(16 * h + i)];
            EXPECT_EQ(chosen.size(), 2u);
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), i), 1) << "its own";
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), target(h, i)), 1);
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
