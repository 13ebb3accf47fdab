// Flash attention over head-major operands: all keys, or the blocks of a list.
#pragma once

#include "kernels/residual.hpp"
#include "kernels/rows.hpp"
#include "quantsparse/attention.hpp"

namespace quantsparse::kernels {

/// Which key blocks each query block attends to: block-CSR on the device, written by the host.
struct BlockList {
    /// An entry of `columns` is a key block's number, below 2^20. Its pairs are tested where it is
    /// kPartial. Bits 20 to 23 and 24 to 27: sixteenths of the block at its begin and at its end
    /// in which no query attends to anything, so that kernels need not look there.
    static constexpr std::uint32_t kPartial = 0x80000000u;
    static constexpr std::uint32_t kBlockMask = 0xFFFFFu;
    static constexpr int kHiddenBefore = 20, kHiddenBehind = 24;  ///< first bits
    Tensor row_ptr;  ///< uint32 [lists, query_blocks + 1], counted in entries of `columns`
    Tensor columns;  ///< uint32 [entries]
    Tensor sight;    ///< uint32 [1 + queries, 2], read for every query: in partial ones it sees the
                     ///< keys j < [0][0], j >= [0][1] and [1 + i][0] <= j < [1 + i][1]
    int lists = 1;   ///< 1: shared by all heads, else one a head
    int block = 64;  ///< queries and keys of a block: 32, 64 or 128
    int query_blocks = 0;
    double density = 1;              ///< share of pairs that is computed, to estimate the work
    std::uint64_t most_entries = 0;  ///< that `columns` has room for
};

/// Blocks of keys that a list leaves out, as one key each: their means, counted as often as they
/// have keys (pool_blocks()). The list is one of each head, made of `choice` (list_blocks()), and
/// there are as many queries as keys.
struct AttentionTail {
    HeadMatrix keys, values;
    Tensor choice;
};

struct AttentionOptions {
    float scale = 1.0f;
    int keys = 0;  ///< keys beyond are masked; 0: all
    Tensor bias;   ///< fp32 [heads, 2 * bias_span - 1] by relative position key - query; optional
    int bias_span = 0;
    AttentionProducts products = AttentionProducts::full;  ///< else without a bias
    const BlockList* blocks = nullptr;   ///< nullptr: dense, and nothing below applies
    TokenOrder order;                    ///< in which q, k and v are; `out` is frame by frame
    const Residual* residual = nullptr;  ///< added to the output
    /// Takes part in the softmax. With `products` full, without a bias and not with `masked`.
    const AttentionTail* tail = nullptr;
    /// Where attention under the mask goes while `out` gets that over all keys, in one pass:
    /// `blocks` is a complete list (attention::complete_list), and attends_both() holds.
    const Matrix* masked = nullptr;
};

/// Tokens of a block of a list where nobody asks for a size. Smaller blocks follow the band closer
/// (1,296 tokens, 25 %: 31 % of the pairs in blocks of 32, 35 % in those of 64), wider ones share
/// more between the queries of a GPU's work-group: matrix units are fast when 128 share what is
/// staged of the keys; for short clips such blocks would hold too many hidden pairs.
int default_block(const program::Limits& limits, int tokens);

/// Whether one pass can write both results: they are slices of one tensor, `masked` behind `out`,
/// that is bound at once. The matrix units' kernel, which `full` means there, has no such form.
bool attends_both(const Program& program, const Matrix& out, const Matrix& masked,
                  AttentionProducts products = AttentionProducts::full);

/// out[t, h * head_dim + c], token-major. Any token count; head dimensions up to 512.
void attention(Program& program, const std::string& name, const HeadMatrix& q, const HeadMatrix& k,
               const HeadMatrix& v, const Matrix& out, const AttentionOptions& options);

}  // namespace quantsparse::kernels
