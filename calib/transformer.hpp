// What the calibrator needs of a diffusion transformer: one block on LibTorch, with its linears and
// its self-attention exchangeable, and what stands before and behind the blocks. The same block
// runs the floating-point model, the quantised one, and the one whose quantisation is being learned
// (autograd goes through it).
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "format/model_bundle.hpp"

namespace quantsparse::calib {

struct TransformerInput {
    at::Tensor latent;                        ///< [in_channels, frames, height, width]
    std::map<std::string, at::Tensor> texts;  ///< by input: [tokens, text_width], unpadded
    double timestep = 0;                      ///< 0..1000
    double guidance = 1;                      ///< for transformers that take the scale as an input
};

/// What a block reads besides its weights. Only x changes from block to block.
struct BlockState {
    at::Tensor x;                             ///< [tokens, width], the residual stream
    std::map<std::string, at::Tensor> given;  ///< what the blocks read: text, modulation …
    std::map<std::string, at::Tensor> head;   ///< what only the head reads
    std::array<std::int64_t, 3> grid{};       ///< frames, rows, columns, in tokens
};

/// One block's tensors by their names inside it: "self_attn.q.weight", "modulation"...
struct BlockWeights {
    const format::NetworkBlock* described = nullptr;  ///< outlives the weights
    std::map<std::string, at::Tensor> tensors;
    const at::Tensor& at(const std::string& name) const { return tensors.at(name); }
};
/// Throws Error(non_finite) for weights that hold NaN or infinity.
BlockWeights load_block_weights(const format::Component& transformer, int block);

/// The group of a block by its name.
const format::LinearGroup& group_of(const format::NetworkBlock& block, std::string_view name);

struct BlockMethods {
    /// Outputs of a group's linears, in the description's order, for input rows [rows, width].
    std::function<std::vector<at::Tensor>(std::string_view group, const at::Tensor& rows)> project;
    /// softmax(q k^T / sqrt(d)) v of the self-attention, q and k after norm and rotation, all
    /// [tokens, heads, d]; returns [tokens, heads * d]. Empty: dense.
    std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>
        self_attention;
};

/// `project` with the block's own floating-point weights.
std::vector<at::Tensor> project_exactly(const BlockWeights& weights, std::string_view group,
                                        const at::Tensor& rows);

/// Stateless beside its weights: several threads may call it at once.
class Transformer {
  public:
    virtual ~Transformer() = default;
    /// What enters the first block.
    virtual BlockState prepare(const TransformerInput& input) const = 0;
    /// The residual stream after a block.
    virtual at::Tensor run_block(const BlockWeights& weights, const BlockState& state,
                                 const BlockMethods& methods) const = 0;
    /// What the head makes of what leaves the last block, shaped as the latent.
    virtual at::Tensor prediction(const BlockState& state) const = 0;
};

}  // namespace quantsparse::calib
