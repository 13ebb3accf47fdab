// The order of tokens whose blocks are tiles, against where tokens lie in the grid.
#include "attention/tile_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace quantsparse::attention {
namespace {

TEST(TileOrder, IsAPermutationThatLeavesTextWhereItIs) {
    for (const TiledGrid& grid :
         {TiledGrid{0, 21, 30, 52, 0}, TiledGrid{7, 5, 6, 9, 13}, TiledGrid{0, 1, 1, 1, 0},
          TiledGrid{2, 3, 1, 100, 0}, TiledGrid{5, 0, 4, 4, 3}}) {
        for (const int block : {32, 64, 128}) {
            auto positions = tile_positions(grid, block);
            const int end = grid.text_in_front + grid.frames * grid.rows * grid.columns;
            ASSERT_EQ(positions.size(), static_cast<std::size_t>(end + grid.text_behind));
            for (int t = 0; t < static_cast<int>(positions.size()); ++t) {
                if (t < grid.text_in_front || t >= end) {
                    EXPECT_EQ(positions[static_cast<std::size_t>(t)], static_cast<unsigned>(t));
                }
            }
            std::sort(positions.begin(), positions.end());
            for (std::size_t i = 0; i < positions.size(); ++i) EXPECT_EQ(positions[i], i);
        }
    }
}

TEST(TileOrder, BlocksAreTilesOfTheFirstFrameAndCubesOfTheOthers) {
    const TiledGrid grid{0, 9, 16, 24, 0};
    const auto positions = tile_positions(grid, 64);
    const auto block_of = [&](int f, int r, int c) {
        return positions[static_cast<std::size_t>((f * 16 + r) * 24 + c)] / 64;
    };
    for (int r = 0; r < 16; ++r) {
        for (int c = 0; c < 24; ++c) {
            EXPECT_EQ(block_of(0, r, c), static_cast<unsigned>(r / 8 * 3 + c / 8));
            for (int f = 1; f < 9; ++f) {
                EXPECT_EQ(block_of(f, r, c),
                          static_cast<unsigned>(6 + ((f - 1) / 4 * 4 + r / 4) * 6 + c / 4));
            }
        }
    }
}

}  // namespace
}  // namespace quantsparse::attention
