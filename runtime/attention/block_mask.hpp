// Masks of sparse attention as lists of blocks: any mask where a query sees a range of keys, a
// prefix and a suffix that all see, and above all the band around the diagonal with the first
// frame.
//
// Spatial heads hold tokens frame by frame, temporal heads place by place; the same band serves
// both (SparseVideoGen), so one list serves all heads.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/band.hpp"
#include "kernels/attention.hpp"
#include "program/executor.hpp"
#include "quantsparse/attention.hpp"

namespace quantsparse::attention {

/// Keys begin .. end - 1.
struct KeyRange {
    int begin = 0;
    int end = 0;
};

/// Which keys each query sees: its own range, and what all see.
struct Sight {
    std::vector<KeyRange> ranges;  ///< of each query; there are as many keys
    int prefix = 0;                ///< keys before are seen by all: sinks, text in front
    int suffix = 0;                ///< keys from here on too: text behind; tokens(): none
    int tokens() const { return static_cast<int>(ranges.size()); }
};

struct BlockMask {
    Sight sight;
    int block = 64;
    double token_density = 1;            ///< share of pairs that are seen
    double block_density = 1;            ///< share of pairs inside listed blocks
    std::vector<std::uint32_t> row_ptr;  ///< [blocks + 1]
    std::vector<std::uint32_t>
        columns;  ///< ascending; kernels::BlockList::kPartial where pairs differ
};

/// |i - j| <= band or j < sink.
Sight band_sight(int tokens, int band, int sink);

/// Lists every block that holds a pair that is seen. `block` granularity: computes them whole, so
/// that each query sees what any of its block does.
BlockMask make_block_mask(Sight sight, int block,
                          MaskGranularity granularity = MaskGranularity::token);

/// The mask with everything else: of each query block first the mask's blocks, then, as a row of
/// its own, all others. Partial blocks are in both rows; in the second they stand for what the mask
/// leaves out of them. For kernels::AttentionOptions::masked.
BlockMask complete_list(const BlockMask& mask);

/// Declares the device's copy. `most_entries`: blocks that masks written to it later may list, if
/// more than those of this one; at most the square of the query blocks.
kernels::BlockList declare_block_list(program::Program& program, const std::string& name,
                                      const BlockMask& mask, std::uint64_t most_entries = 0);
/// Writes a mask of as many tokens and the same block size: the one declared or, between two runs,
/// another. Nothing is compiled or recorded anew. Throws Error if it lists more blocks than fit.
void write_block_list(program::Executor& executor, const kernels::BlockList& list,
                      const BlockMask& mask);

}  // namespace quantsparse::attention
