// Band masks and their block lists, against counting every pair and the figures of SparseVideoGen.
#include "attention/block_mask.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>

namespace quantsparse::attention {
namespace {

using kernels::BlockList;

constexpr std::uint32_t kPartial = BlockList::kPartial;

std::size_t block_of(std::uint32_t entry) {
    return entry & BlockList::kBlockMask;
}

/// The keys that an entry says matter: all that `needed` names are among them, and none that whole
/// sixteenths could leave out.
void expect_tight(std::uint32_t entry, const BlockMask& mask, int query_block,
                  const std::function<bool(int query, int key)>& needed) {
    const int part = mask.block / 16, tokens = mask.sight.tokens();
    const int first = static_cast<int>(block_of(entry)) * mask.block;
    const int begin = first + static_cast<int>(entry >> BlockList::kHiddenBefore & 15U) * part;
    const int end =
        first + mask.block - static_cast<int>(entry >> BlockList::kHiddenBehind & 15U) * part;
    int least = tokens, most = -1;
    for (int i = query_block * mask.block; i < std::min(tokens, (query_block + 1) * mask.block);
         ++i) {
        for (int j = first; j < std::min(tokens, first + mask.block); ++j) {
            if (!needed(i, j)) continue;
            least = std::min(least, j);
            most = std::max(most, j);
        }
    }
    EXPECT_LE(begin, least);
    EXPECT_LT(least, begin + part);
    EXPECT_GT(end, most);
    EXPECT_GE(most, end - part);
}

bool allowed(int i, int j, int band, int sink) {
    return std::abs(i - j) <= band || j < sink;
}

TEST(BlockMask, CountsThePairsThatThePredicateAllows) {
    for (const int tokens : {1, 5, 37}) {
        for (const int band : {0, 1, 9, 36, 50}) {
            for (const int sink : {0, 1, 7, 37}) {
                std::uint64_t pairs = 0;
                for (int i = 0; i < tokens; ++i) {
                    for (int j = 0; j < tokens; ++j) pairs += allowed(i, j, band, sink);
                }
                EXPECT_EQ(count_pairs(tokens, band, sink), pairs)
                    << tokens << " tokens, band " << band << ", sink " << sink;
            }
        }
    }
}

TEST(BlockMask, ListsExactlyTheBlocksWithAllowedPairs) {
    for (const auto& [tokens, band, sink, block] : {std::array{300, 40, 0, 64},
                                                    {300, 0, 33, 32},
                                                    {130, 129, 10, 64},
                                                    {1, 0, 1, 128},
                                                    {257, 70, 64, 64},
                                                    {200, 3, 130, 32}}) {
        const BlockMask mask = make_block_mask(band_sight(tokens, band, sink), block);
        const int blocks = (tokens + block - 1) / block;
        ASSERT_EQ(mask.row_ptr.size(), static_cast<std::size_t>(blocks) + 1);
        std::size_t entry = 0;
        for (int b = 0; b < blocks; ++b) {
            EXPECT_EQ(mask.row_ptr[static_cast<std::size_t>(b)], entry);
            for (int column = 0; column < blocks; ++column) {
                int inside = 0, pairs = 0;
                for (int i = b * block; i < std::min(tokens, (b + 1) * block); ++i) {
                    for (int j = column * block; j < std::min(tokens, (column + 1) * block); ++j) {
                        ++pairs;
                        inside += allowed(i, j, band, sink);
                    }
                }
                if (inside == 0) continue;
                ASSERT_LT(entry, mask.columns.size());
                EXPECT_EQ(block_of(mask.columns[entry]), static_cast<std::size_t>(column));
                expect_tight(mask.columns[entry], mask, b,
                             [&](int i, int j) { return allowed(i, j, band, sink); });
                // A whole block may be marked partial where the sink's end meets the band's.
                if (!(mask.columns[entry] & kPartial)) {
                    EXPECT_EQ(inside, pairs);
                }
                ++entry;
            }
        }
        EXPECT_EQ(entry, mask.columns.size());
    }
}

TEST(BlockMask, ACompleteListNamesEveryPairOnce) {
    for (const auto& [tokens, band, sink] :
         {std::array{150, 20, 33}, {150, 0, 0}, {64, 64, 0}, {1, 0, 1}}) {
        const BlockMask mask = make_block_mask(band_sight(tokens, band, sink), 32);
        const BlockMask all = complete_list(mask);
        const std::size_t blocks = mask.row_ptr.size() - 1;
        ASSERT_EQ(all.row_ptr.size(), 2 * blocks + 1);
        for (std::size_t b = 0; b < blocks; ++b) {
            const auto row = [&](std::size_t r) {
                return std::vector<std::uint32_t>(all.columns.begin() + all.row_ptr[r],
                                                  all.columns.begin() + all.row_ptr[r + 1]);
            };
            const auto listed = row(2 * b), rest = row(2 * b + 1);
            EXPECT_EQ(listed,
                      std::vector<std::uint32_t>(mask.columns.begin() + mask.row_ptr[b],
                                                 mask.columns.begin() + mask.row_ptr[b + 1]));
            std::vector<int> times(blocks, 0);
            for (const std::uint32_t entry : listed) ++times[block_of(entry)];
            for (const std::uint32_t entry : rest) {
                const bool partial = (entry & kPartial) != 0;
                EXPECT_EQ(partial, times[block_of(entry)] == 1);
                if (!partial) ++times[block_of(entry)];
                expect_tight(entry, mask, static_cast<int>(b),
                             [&](int i, int j) { return !partial || !allowed(i, j, band, sink); });
            }
            EXPECT_EQ(times, std::vector<int>(blocks, 1));
        }
    }
}

TEST(BlockMask, BlockGranularityListsTheSameBlocksWhole) {
    for (const auto& [tokens, band, sink] : {std::array{300, 40, 50}, {77, 0, 0}, {257, 70, 1}}) {
        const BlockMask token = make_block_mask(band_sight(tokens, band, sink), 32);
        const BlockMask block =
            make_block_mask(band_sight(tokens, band, sink), 32, MaskGranularity::block);
        EXPECT_EQ(block.row_ptr, token.row_ptr);
        ASSERT_EQ(block.columns.size(), token.columns.size());
        for (std::size_t e = 0; e < block.columns.size(); ++e) {
            EXPECT_EQ(block_of(block.columns[e]), block_of(token.columns[e]));
            EXPECT_FALSE(block.columns[e] & kPartial);
        }
        EXPECT_DOUBLE_EQ(block.token_density, token.block_density);
    }
}

TEST(BlockMask, SvgWidthsAndDensitiesAreThePublishedOnes) {
    struct Row {
        int places;
        double density;
        int width;
        double token_density;
    };
    for (const Row& row : {Row{1560, 0.10, 1792, 0.150},
                           {1560, 0.25, 4480, 0.295},
                           {1560, 0.40, 7424, 0.438},
                           {3600, 0.15, 6016, 0.196},
                           {3600, 0.25, 10240, 0.293}}) {
        const int band = band_width(21 * row.places, row.places, row.density, MaskMode::svg);
        EXPECT_EQ(band, row.width);
        const double tokens = 21.0 * row.places;
        EXPECT_NEAR(
            static_cast<double>(count_pairs(21 * row.places, band, row.places)) / (tokens * tokens),
            row.token_density, 6e-4);
    }
}

TEST(BlockMask, ExactWidthsCountTheFirstFrame) {
    for (const auto& [density, frames] : {std::pair{0.10, 0.584},
                                          {0.15, 1.145},
                                          {0.20, 1.724},
                                          {0.25, 2.320},
                                          {0.30, 2.937},
                                          {0.40, 4.241}}) {
        EXPECT_NEAR(band_width(21 * 1560, 1560, density, MaskMode::exact) / 1560.0, frames,
                    4e-3);  // those come from the continuous formula
    }
    for (const int places : {1, 36, 77}) {
        for (const double density : {0.01, 0.2, 0.5, 0.999}) {
            const int band = band_width(9 * places, places, density, MaskMode::exact);
            const double all = 81.0 * places * places;
            const auto distance = [&](int width) {
                return std::abs(static_cast<double>(count_pairs(9 * places, width, places)) / all -
                                density);
            };
            EXPECT_LE(distance(band), distance(band + 1)) << places << ", " << density;
            if (band > 0) {
                EXPECT_LE(distance(band), distance(band - 1)) << places << ", " << density;
            }
        }
    }
}

TEST(BlockMask, RangesOfTheirOwnWithTextBehind) {
    // Queries that see three equal parts of the keys; the last 9 tokens see all and are seen by
    // all.
    Sight sight;
    sight.prefix = 5;
    sight.suffix = 150 - 9;
    const auto sees = [](int i, int j) {
        return j < 5 || j >= 141 || i >= 141 || (j / 47 == i / 47 && j < 141);
    };
    for (int i = 0; i < 150; ++i) {
        sight.ranges.push_back(i >= 141 ? KeyRange{0, 150}
                                        : KeyRange{i / 47 * 47, (i / 47 + 1) * 47});
    }
    const BlockMask mask = make_block_mask(sight, 32);
    int pairs = 0;
    std::size_t entry = 0;
    for (int b = 0; b < 5; ++b) {
        for (int column = 0; column < 5; ++column) {
            int inside = 0, outside = 0;
            for (int i = b * 32; i < std::min(150, b * 32 + 32); ++i) {
                for (int j = column * 32; j < std::min(150, column * 32 + 32); ++j) {
                    ++(sees(i, j) ? inside : outside);
                }
            }
            pairs += inside;
            if (inside == 0) continue;
            ASSERT_LT(entry, mask.columns.size());
            EXPECT_EQ(block_of(mask.columns[entry]), static_cast<std::size_t>(column));
            expect_tight(mask.columns[entry], mask, b, sees);
            if (!(mask.columns[entry] & kPartial)) {
                EXPECT_EQ(outside, 0);
            }
            ++entry;
        }
    }
    EXPECT_EQ(entry, mask.columns.size());
    EXPECT_NEAR(mask.token_density, pairs / (150.0 * 150.0), 1e-12);
}

TEST(BlockMask, FullDensityListsEverythingWhole) {
    const int band = band_width(9 * 36, 36, 1.0, MaskMode::exact);
    const BlockMask mask = make_block_mask(band_sight(9 * 36, band, 36), 64);
    EXPECT_EQ(mask.columns.size(), 36u);
    for (const std::uint32_t column : mask.columns) {
        EXPECT_FALSE(column & kPartial);
    }
    EXPECT_EQ(mask.token_density, 1.0);
    EXPECT_EQ(mask.block_density, 1.0);
}

}  // namespace
}  // namespace quantsparse::attention
