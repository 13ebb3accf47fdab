// The mask of sparse attention: a band around the diagonal and the first frame, as a list of
// blocks.
//
// Spatial heads hold tokens frame by frame, temporal heads place by place; the same band serves
// both (SparseVideoGen), so one list serves all heads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.hpp"
#include "quantsparse/attention.hpp"

namespace quantsparse::attention {

struct BlockMask {
    int tokens = 0;
    int block = 64;
    int band = 0;                        ///< |i - j| <= band, or
    int sink = 0;                        ///< j < sink
    double token_density = 1;            ///< share of pairs the predicate allows
    double block_density = 1;            ///< share of pairs inside listed blocks
    std::vector<std::uint32_t> row_ptr;  ///< [blocks + 1]
    std::vector<std::uint32_t>
        columns;  ///< ascending; kernels::BlockList::kPartial where pairs differ
};

/// Half-width of the band in tokens for `density` of tokens = frames * tokens_per_frame, where the
/// first frame is always seen. `exact`: the width whose share of pairs comes closest; `svg`: that
/// of SparseVideoGen for Wan, which leaves the first frame out of the count and rounds up to 128.
int band_width(int frames, int tokens_per_frame, double density, MaskMode mode);

/// Pairs that the predicate allows, out of tokens^2.
std::uint64_t count_pairs(int tokens, int band, int sink);

BlockMask make_block_mask(int tokens, int band, int sink, int block);

/// Declares the device's copy.
kernels::BlockList declare_block_list(program::Program& program, const std::string& name,
                                      const BlockMask& mask);

}  // namespace quantsparse::attention
