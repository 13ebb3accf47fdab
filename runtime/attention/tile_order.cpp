#include "attention/tile_order.hpp"

#include <algorithm>

namespace quantsparse::attention {
namespace {

struct Tile {
    int frames, rows, columns;
};

/// Numbers the tokens of frames begin .. end - 1 tile by tile.
void number_tiles(const TiledGrid& grid, int begin, int end, const Tile& tile, std::uint32_t next,
                  std::vector<std::uint32_t>& positions) {
    for (int f0 = begin; f0 < end; f0 += tile.frames) {
        for (int r0 = 0; r0 < grid.rows; r0 += tile.rows) {
            for (int c0 = 0; c0 < grid.columns; c0 += tile.columns) {
                for (int f = f0; f < std::min(f0 + tile.frames, end); ++f) {
                    for (int r = r0; r < std::min(r0 + tile.rows, grid.rows); ++r) {
                        for (int c = c0; c < std::min(c0 + tile.columns, grid.columns); ++c) {
                            const int token =
                                grid.text_in_front + (f * grid.rows + r) * grid.columns + c;
                            positions[static_cast<std::size_t>(token)] = next++;
                        }
                    }
                }
            }
        }
    }
}

}  // namespace

std::vector<std::uint32_t> tile_positions(const TiledGrid& grid, int block) {
    const int places = grid.rows * grid.columns;
    const int tokens = grid.text_in_front + grid.frames * places + grid.text_behind;
    std::vector<std::uint32_t> positions;
    for (int token = 0; token < tokens; ++token) {
        positions.push_back(static_cast<std::uint32_t>(token));
    }
    const Tile flat{1, block < 64 ? 4 : 8, block < 128 ? 8 : 16};
    const Tile cube{block < 64 ? 2 : 4, 4, block < 128 ? 4 : 8};
    const auto front = static_cast<std::uint32_t>(grid.text_in_front);
    const int first = std::min(1, grid.frames);
    number_tiles(grid, 0, first, flat, front, positions);
    number_tiles(grid, first, grid.frames, cube, front + static_cast<std::uint32_t>(places),
                 positions);
    return positions;
}

}  // namespace quantsparse::attention
