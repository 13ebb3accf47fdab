// An order of the grid's tokens whose blocks are compact in space and time.
#pragma once

#include <cstdint>
#include <vector>

namespace quantsparse::attention {

/// The grid among the text: frames of rows of columns, frame by frame.
struct TiledGrid {
    int text_in_front = 0;
    int frames = 0;
    int rows = 0;
    int columns = 0;
    int text_behind = 0;
};

/// The position of each token: the first frame tile by tile, so that a sink is the first blocks
/// still, then the others in cubes, row by row inside each. A block of 64 tokens is 8 x 8 places or
/// 4 frames of 4 x 4; where a size is no multiple, tiles at its end are smaller and blocks no
/// longer begin with one. Text stays where it is.
std::vector<std::uint32_t> tile_positions(const TiledGrid& grid, int block);

}  // namespace quantsparse::attention
