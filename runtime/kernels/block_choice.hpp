// Blocks of keys that are chosen on the device, for each head and block of queries: from the means
// of q and k in each block, without a trip to the host.
#pragma once

#include "kernels/attention.hpp"

namespace quantsparse::kernels {

/// What is chosen. Rows are blocks of queries, columns blocks of keys.
struct BlockRule {
    int tokens = 0;
    int block = 64;       ///< tokens of a block: 32, 64 or 128; the last one may be shorter
    int prefix = 0;       ///< columns before are chosen in all rows: sinks, text in front
    int suffix = 0;       ///< those from here on, too: text behind; blocks(): none
    int reach = 1;        ///< so are those at most as far from the row's own; -1: not even that
    Tensor always;        ///< uint32 [blocks, words], bits as in a choice: so are these; optional
    int most_always = 0;  ///< the most of them in a row
    bool beside = false;  ///< what is chosen whatever its score is beside the best, not among them
    int group = 1;        ///< neighbouring rows whose scores are of the mean of all their queries
    int full_end = 0;     ///< rows before choose everything: text in front
    int full_begin = 0;   ///< those from here on, too; blocks(): none
    int keep = 1;         ///< columns of a row, the ones above among them: the highest scores
    float top_p = 0;      ///< more of them, until they hold so much of the row's softmax; 0: off

    int blocks() const { return (tokens + block - 1) / block; }
    int words() const { return (blocks() + 31) / 32; }
    std::uint64_t choice_bytes(int heads) const {
        return static_cast<std::uint64_t>(heads) * static_cast<std::uint64_t>(blocks() * words()) *
               4;
    }
    bool is_full(int row) const { return row < full_end || row >= full_begin; }
    /// Columns that a row chooses whatever their scores are, at most.
    int forced(int row) const;
    /// The most that a head's rows can choose together.
    std::uint64_t most_entries() const;
    /// Room for a head in a list: `complete` ones have all blocks of all rows.
    std::uint64_t head_entries(bool complete) const;
    /// Whether a kernel can bind the lists of so many heads at once, as list_blocks() needs.
    bool fits(const program::Limits& limits, int heads, bool complete) const;
    /// The share of pairs of blocks that is chosen, where top_p adds none.
    double density() const;
};

/// The mean of each block of k or v, as tokens.
HeadMatrix pool_blocks(Program& program, const std::string& name, const HeadMatrix& x,
                       const BlockRule& rule);

/// Writes the choice, uint32 [heads, blocks, words] with block j of a row in bit j % 32 of word
/// j / 32. Scores are scale * mean q . mean k; one that isn't finite is below all others, and of
/// equal ones the lower block comes first. q and k have their tokens in the order that attention
/// will see.
void choose_blocks(Program& program, const std::string& name, const HeadMatrix& q,
                   const HeadMatrix& k, float scale, const BlockRule& rule, Tensor choice);

/// The choice as lists of each head, in transient tensors. `complete`: with the blocks that each
/// row lacks, for AttentionOptions::masked.
BlockList list_blocks(Program& program, const std::string& name, Tensor choice, int heads,
                      const BlockRule& rule, Tensor sight, bool complete = false);

/// Bytes of `sight` above. No block of such lists is partial: only zeros need be there.
inline std::uint64_t sight_bytes(const BlockRule& rule) {
    return static_cast<std::uint64_t>(1 + rule.tokens) * 8;
}

}  // namespace quantsparse::kernels
