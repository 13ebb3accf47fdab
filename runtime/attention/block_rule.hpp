// From a density to what the device chooses in each row of blocks.
#pragma once

#include "kernels/block_choice.hpp"

namespace quantsparse::attention {

/// Whether heads have lists of their own: chosen on the device, or of a file.
inline bool lists_blocks(const AttentionParameters& parameters) {
    return parameters.mask == MaskMode::topk || parameters.mask == MaskMode::jenga ||
           !parameters.mask_file.empty();
}
/// What nobody asked for.
inline double top_p_of(const AttentionParameters& parameters) {
    return parameters.top_p.value_or(parameters.mask == MaskMode::jenga ? 0.9 : 0.0);
}
inline BlockOrder block_order_of(const AttentionParameters& parameters) {
    return parameters.block_order.value_or(parameters.mask == MaskMode::jenga ? BlockOrder::curve
                                                                              : BlockOrder::frames);
}
int block_size_of(const AttentionParameters& parameters, const program::Limits& limits, int tokens);

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
