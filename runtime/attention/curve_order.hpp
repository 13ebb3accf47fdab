// An order of the grid's tokens along a curve that fills it, and which blocks of such an order
// touch.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/tile_order.hpp"

namespace quantsparse::attention {

/// The position of each token along a generalised Hilbert curve through the clip: from one to the
/// next every coordinate changes by one at most, for all sizes. Text stays where it is.
std::vector<std::uint32_t> curve_positions(const TiledGrid& grid);

/// uint32 [blocks, words], block j of a row in bit j % 32 of word j / 32: whether a token of either
/// block is one of the 26 around a token of the other, or the same one. Blocks of text alone touch
/// themselves.
std::vector<std::uint32_t> touching_blocks(const TiledGrid& grid,
                                           const std::vector<std::uint32_t>& positions, int block);

/// The most bits of a row of `words`.
int most_in_a_row(const std::vector<std::uint32_t>& bits, int words);

}  // namespace quantsparse::attention
