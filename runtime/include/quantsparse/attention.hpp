// How self-attention is computed while a clip is denoised: all of it, or the blocks of a mask plus
// a correction from the last full computation (SSAR, second-order sparse attention
// reparameterisation); and in which arithmetic.
#pragma once

#include <filesystem>
#include <optional>
#include <vector>

namespace quantsparse {

/// `sla`: sparse-linear attention (arXiv 2509.24006), which a transformer either was trained with
/// (docs/networks/sla.md) or can't run.
enum class AttentionKind { dense, sparse, sla };

/// What self-attention multiplies: its operands as they are (fp32, halves on matrix units), or
/// codes of eight bits as SageAttention does (arXiv 2410.02367), for devices without matrix units
/// whose dot products of four bytes outrun their fp32 arithmetic.
enum class AttentionProducts {
    full,
    int8_qk,  ///< q k^T in codes, a scale for each 64 tokens, k's mean over the tokens taken out
    int8,     ///< the probabilities and v as well, v with a scale for each column
};

/// Which pairs are computed. `exact` and `svg`: a band around the diagonal, the same in all heads;
/// its width counts the first frame's columns into the density, or is SparseVideoGen's own formula,
/// which comes out denser than asked. `topk`: in each head and row of blocks those blocks of keys
/// whose mean scores highest with the mean query, chosen on the device from the present q and k.
/// `jenga`: topk as Jenga (arXiv 2505.16864) has it: blocks along a curve, what touches a block
/// beside the best, a share of the softmax above a least number.
enum class MaskMode { exact, svg, topk, jenga };

/// In which order topk cuts the tokens into blocks: as they stand; the first frame in tiles and the
/// others in cubes; or along a Hilbert curve through the clip. With the latter two the tokens of a
/// block are near each other in space and time.
enum class BlockOrder { frames, tiles, curve };

/// What stands for the blocks that topk leaves out: nothing, or of each block its mean key, counted
/// as often as the block has keys, with its mean value (zeroth order of PISA, arXiv 2602.01077).
enum class BlockTail { none, pooled };

/// Which keys every query sees beside its band. Temporal heads hold tokens place by place: `frame`
/// gives them as many first places over all frames, as SparseVideoGen does, `frame0` the first
/// frame, which their order then holds apart.
enum class Sink { none, frame, frame0 };

/// What a block on the mask's edge computes: the pairs that the mask names, or all.
enum class MaskGranularity { token, block };

/// What is added to sparse attention between two refreshes; D_n are the last full-minus-sparse
/// residuals, newest first.
enum class SsarMode {
    off,     ///< nothing, and no refreshes: static sparsity
    none,    ///< nothing, but the refresh steps stay dense
    first,   ///< D0
    second,  ///< D0 + (D0 - D1)
    third,   ///< 3 D0 - 3 D1 + D2
    svd,     ///< D0 + the best rank-r approximation of (D0 - D1)
};

/// Which residual D1 is: that of the last refresh, or that of the step right before this one (which
/// is then computed densely too).
enum class SsarSpan { references, adjacent };

/// Weight of the difference D0 - D1 at a step after the refresh: 1, the steps since the refresh or
/// the change of sigma since the refresh, each divided by that between the two references.
enum class SsarGain { one, linear, sigma };

/// How D is kept: half precision, 8 or 4 bits with a scale per token and head, or its rank-r
/// factors.
enum class ResidualStorage { half, int8, int4, low_rank };

struct AttentionParameters {
    std::optional<AttentionKind> kind;  ///< default: sla for transformers that hold it, else dense
    AttentionProducts products = AttentionProducts::full;
    /// Of query-key pairs inside the mask; default 0.25. sla: of a row's key blocks; default 0.1.
    std::optional<double> density;
    /// Queries and keys of a block: 32, 64 or 128; default 64, 32 on CPU drivers, with matrix units
    /// 128 from 4,096 tokens on.
    std::optional<int> block_size;
    MaskMode mask = MaskMode::exact;
    /// Lists of blocks for each layer and head in the place of a mask and its density
    /// (docs/method.md 4.10); empty: none.
    std::filesystem::path mask_file;
    /// topk: more blocks, until they hold so much of the row's softmax; 0: off. Default: 0, of
    /// jenga 0.9.
    std::optional<double> top_p;
    std::optional<BlockOrder> block_order;  ///< default: frames, of jenga curve
    BlockTail tail = BlockTail::none;
    MaskGranularity granularity = MaskGranularity::token;
    Sink sink = Sink::frame;
    /// Default: svd, for clips of fewer than 8 steps first, since svd needs two references.
    std::optional<SsarMode> ssar;
    int ssar_rank = 16;  ///< 1..32
    SsarSpan ssar_span = SsarSpan::references;
    SsarGain ssar_gain = SsarGain::linear;  ///< the paper has one; docs/quality.md
    ResidualStorage residual = ResidualStorage::int8;
    /// Steps that are refreshes: 0, then rising. Empty: see below.
    std::vector<int> refresh_steps;
    /// Steps from one refresh to the next, as in the paper, which has 5. Not set: refreshes stand
    /// where the recorded drift of the residual and the sampler's steps make them worth most.
    std::optional<int> refresh_interval;
    /// How many are placed so, 1 or more; default: a fifth of the steps, two for 4 to 8.
    std::optional<int> refreshes;
    std::optional<int>
        dense_steps;       ///< first steps computed densely; default 0 with SSAR, else 20 %
    int dense_layers = 1;  ///< first layers always computed densely
};

/// Throws Error(invalid_argument) for values that no model can run.
void check(const AttentionParameters& parameters);

}  // namespace quantsparse
