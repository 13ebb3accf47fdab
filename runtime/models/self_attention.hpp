// Self-attention of a diffusion transformer: all of it, or sparse with SSAR. Owns what that needs
// beside the weights: masks, types of heads, residuals. Every network's blocks call it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attention/block_mask.hpp"
#include "attention/residual_state.hpp"
#include "attention/step_schedule.hpp"
#include "kernels/block_choice.hpp"
#include "kernels/rows.hpp"
#include "models/mask_file.hpp"
#include "models/sparse_linear_attention.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

/// The tokens in the order they stand: text, the grid frame by frame, more text. Text sees all and
/// is seen by all.
struct TokenGrid {
    int frames = 0;
    int places = 0;   ///< tokens of a frame
    int columns = 0;  ///< tokens of a row of it; where blocks are tiles
    int text_in_front = 0;
    int text_behind = 0;
    int grid() const { return frames * places; }
    int tokens() const { return text_in_front + grid() + text_behind; }
};

/// Half-width of the band among the grid's tokens with which a mask shows `density` of all pairs,
/// those of the text included; `sink` tokens of the grid are always seen.
int band_beside_text(const TokenGrid& grid, int sink, double density, MaskMode mode);

class SparseSelfAttention {
  public:
    struct Shape {
        TokenGrid grid;
        int heads = 0;
        int head_dim = 0;
        bool sparse_linear = false;  ///< as the transformer was trained, whatever the steps are
    };

    /// Declares the tensors for the kinds of steps that will be built. Throws
    /// Error(invalid_argument) for a kind of attention that the transformer can't run.
    SparseSelfAttention(Program& program, const Shape& shape, const AttentionParameters& parameters,
                        int layers, int branches, const std::vector<attention::StepKind>& kinds);

    /// q, k, v as linears give them, [tokens, heads * head_dim], and what happens to q and k on the
    /// way into heads: norms and rotation, no order.
    struct Operands {
        Matrix q, k, v;
        kernels::HeadTransform q_transform, k_transform;
        kernels::FloatWeight linear_projection = {};  ///< proj_l of sparse-linear attention
    };
    /// softmax(q k^T / sqrt(head_dim)) v of a layer in a step of `kind`, or sparse-linear
    /// attention, [tokens, heads * head_dim]. With `kept`, q and k after their transforms stay as
    /// intermediates "<kept>q_rope", "k_rope".
    Matrix build(int layer, int branch, attention::StepKind kind, const Operands& operands,
                 const std::string& kept = {});

    /// Before the first step of a clip: writes the block lists, forgets residuals and types.
    void reset(program::Executor& executor) const;
    const attention::ResidualState* residuals() const { return residuals_.get(); }
    /// Of each head the share of pairs of blocks that was last chosen; empty for layers that are
    /// dense and where nothing is chosen.
    std::vector<double> chosen_densities(const program::Executor& executor, int layer) const;

  private:
    struct Heads {
        kernels::HeadMatrix q, k, v;
    };

    void split(const Operands& operands, const Heads& heads, const kernels::TokenOrder& order,
               bool only_temporal);
    void declare_band(bool refreshes);
    void declare_choices(int layers);
    /// The rule by which the device chooses, or the one that holds a file's lists.
    kernels::BlockRule chosen_rule();
    kernels::BlockRule rule_of_file(int layers);
    /// The lists of a layer whose blocks are chosen on the device.
    kernels::BlockList chosen_list(int layer, bool complete);
    kernels::TokenOrder order_of(int layer) const;
    /// What stands for the blocks that a layer's lists leave out.
    std::optional<kernels::AttentionTail> tail_of(int layer, const Heads& heads);
    /// The rule's bits and the positions of tokens, as far as there are any.
    void write_order(program::Executor& executor) const;
    Matrix build_sparse(int layer, int branch, bool refresh, const Operands& operands,
                        const Heads& heads);

    Program& program_;
    Shape shape_;
    AttentionParameters parameters_;
    attention::BlockMask mask_;
    kernels::BlockList blocks_list_;
    kernels::BlockList complete_list_;  ///< of refreshes that compute both results in one pass
    std::vector<Tensor> head_types_;    ///< uint32 [heads] of a layer, for all branches
    std::optional<kernels::BlockRule> rule_;  ///< of MaskMode::topk, which has no types
    std::vector<Tensor> choices_;             ///< of each layer, shared by the branches
    std::optional<MaskFile> mask_file_;       ///< in the place of what the device chooses
    Tensor sight_;                            ///< of the chosen lists
    Tensor positions_;  ///< of each token where blocks are tiles or of a curve
    std::unique_ptr<attention::ResidualState> residuals_;
    std::optional<SparseLinearAttention> sparse_linear_;
};

}  // namespace quantsparse::models
