// The order of tokens along a curve, and which of its blocks touch, against where tokens lie.
#include "attention/curve_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace quantsparse::attention {
namespace {

struct Cell {
    int frame, row, column;
};

/// The cells of a grid in the order of the curve.
std::vector<Cell> cells_of(const TiledGrid& grid) {
    const auto positions = curve_positions(grid);
    const int front = grid.text_in_front, count = grid.frames * grid.rows * grid.columns;
    std::vector<Cell> cells(static_cast<std::size_t>(count), Cell{-1, -1, -1});
    for (int t = 0; t < count; ++t) {
        cells.at(positions.at(static_cast<std::size_t>(front + t)) -
                 static_cast<std::size_t>(front)) = {
            t / grid.columns / grid.rows, t / grid.columns % grid.rows, t % grid.columns};
    }
    return cells;
}

TEST(CurveOrder, ACubeOfEightCellsIsTheHilbertCurve) {
    // The gray code: each step changes one coordinate.
    const int expected[8][3] = {{0, 0, 0}, {0, 1, 0}, {1, 1, 0}, {1, 0, 0},
                                {1, 0, 1}, {1, 1, 1}, {0, 1, 1}, {0, 0, 1}};
    const auto cells = cells_of({0, 2, 2, 2, 0});
    for (std::size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(cells[i].frame, expected[i][0]) << i;
        EXPECT_EQ(cells[i].row, expected[i][1]) << i;
        EXPECT_EQ(cells[i].column, expected[i][2]) << i;
    }
}

TEST(CurveOrder, VisitsEveryCellOnceAndStepsToANeighbour) {
    for (int frames = 1; frames <= 7; ++frames) {
        for (int rows = 1; rows <= 9; ++rows) {
            for (int columns = 1; columns <= 9; ++columns) {
                const auto cells = cells_of({0, frames, rows, columns, 0});
                int diagonal = 0;
                for (std::size_t i = 1; i < cells.size(); ++i) {
                    const Cell &a = cells[i - 1], &b = cells[i];
                    ASSERT_GE(b.frame, 0) << "two cells at one position";
                    const int steps[] = {std::abs(a.frame - b.frame), std::abs(a.row - b.row),
                                         std::abs(a.column - b.column)};
                    ASSERT_EQ(*std::max_element(steps, steps + 3), 1)
                        << frames << " x " << rows << " x " << columns << " at " << i;
                    diagonal += steps[0] + steps[1] + steps[2] > 1;
                }
                if (frames % 2 == 0 && rows % 2 == 0 && columns % 2 == 0) {
                    EXPECT_EQ(diagonal, 0) << frames << " x " << rows << " x " << columns;
                }
            }
        }
    }
}

TEST(CurveOrder, TextStaysWhereItIs) {
    const auto positions = curve_positions({3, 2, 4, 5, 2});
    ASSERT_EQ(positions.size(), 45u);
    for (const std::size_t t : {0u, 1u, 2u, 43u, 44u}) EXPECT_EQ(positions[t], t);
    auto sorted = positions;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t i = 0; i < sorted.size(); ++i) EXPECT_EQ(sorted[i], i);
    EXPECT_EQ(curve_positions({5, 0, 4, 4, 3}).size(), 8u);
}

TEST(CurveOrder, BlocksTouchWhereTheirTokensDo) {
    // One row of cells: the curve is the line, and blocks touch the ones before and after.
    const TiledGrid line{0, 1, 1, 40 * 32, 0};
    const auto bits = touching_blocks(line, curve_positions(line), 32);
    ASSERT_EQ(bits.size(), 80u);
    for (int i = 0; i < 40; ++i) {
        for (int j = 0; j < 40; ++j) {
            EXPECT_EQ(bits[static_cast<std::size_t>(2 * i + j / 32)] >> j % 32 & 1,
                      std::abs(i - j) <= 1 ? 1u : 0u)
                << i << ", " << j;
        }
    }
    // Cubes of 4 x 4 x 4 cells, given as tiles: 26 neighbours inside, fewer at the faces.
    const TiledGrid grid{0, 12, 12, 12, 0};
    std::vector<std::uint32_t> cubes;
    for (int t = 0; t < 12 * 12 * 12; ++t) {
        const int f = t / 144, r = t / 12 % 12, c = t % 12;
        cubes.push_back(static_cast<std::uint32_t>(64 * ((f / 4 * 3 + r / 4) * 3 + c / 4) +
                                                   (f % 4 * 4 + r % 4) * 4 + c % 4));
    }
    const auto touching = touching_blocks(grid, cubes, 64);
    ASSERT_EQ(touching.size(), 27u);
    EXPECT_EQ(touching[13], (1u << 27) - 1) << "the one in the middle touches all";
    EXPECT_EQ(touching[0], 0b000011011000011011u) << "one in a corner seven others";
}

}  // namespace
}  // namespace quantsparse::attention
