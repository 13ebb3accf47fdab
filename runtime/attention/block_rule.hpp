// From a density to what the device chooses in each row of blocks.
#pragma once

#include "kernels/block_choice.hpp"

namespace quantsparse::attention {

/// The tokens as they stand: text, the grid frame by frame, more text.
struct TokenSpan {
    int tokens = 0;
    int grid_begin = 0;  ///< text in front
    int grid_end = 0;    ///< text behind begins
    int sink = 0;        ///< first tokens of the grid that all queries see
};

/// Rows of text choose everything and all rows choose text; the others choose so many blocks that
/// `density` of all pairs is computed, but at least the sink and their neighbours. `top_p`: or
/// more, until the chosen blocks hold so much of the softmax of the blocks' mean scores; 0: off.
kernels::BlockRule make_block_rule(const TokenSpan& span, int block, double density, double top_p);

}  // namespace quantsparse::attention
