// One block of the Wan DiT on LibTorch, with its linears and its self-attention exchangeable: the
// same code runs the floating-point model, the quantised one, and the one whose quantisation is
// being learned (autograd goes through it). docs/networks/wan.md has the facts that comments cite.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "calib/activations.hpp"
#include "format/checkpoint.hpp"

namespace quantsparse::calib {

/// What a block reads besides its weights. Only x changes from block to block.
struct BlockState {
    at::Tensor x;        ///< [tokens, dim], the residual stream
    at::Tensor context;  ///< [text_len, dim], after the text MLP
    at::Tensor e;        ///< [dim], what the head is modulated by
    at::Tensor e0;       ///< [6, dim], what the blocks are modulated by
    at::Tensor cosines;  ///< [tokens, 1, head_dim / 2]
    at::Tensor sines;
    std::array<std::int64_t, 3> grid{};  ///< latent frames, rows, columns, in patches
};

/// Tensors of one block by their names inside it: "self_attn.q.weight", "modulation"...
using BlockWeights = std::map<std::string, at::Tensor>;
BlockWeights load_block_weights(const format::Checkpoint& checkpoint,
                                const format::WanDitConfig& config, int block);

/// Names of a group's linears inside the block: "self_attn.q"...
std::vector<std::string> short_names_of(InputGroup group);

struct BlockMethods {
    /// Outputs of the group's linears, in the order of linears_of(), for input rows [rows, width].
    std::function<std::vector<at::Tensor>(InputGroup, const at::Tensor& rows)> project;
    /// softmax(q k^T / sqrt(d)) v of the self-attention, q and k after norm and RoPE, all
    /// [tokens, heads, d]; returns [tokens, heads * d]. Empty: dense.
    std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>
        self_attention;
};

/// `project` with the block's own floating-point weights.
std::vector<at::Tensor> project_exactly(const BlockWeights& weights, InputGroup group,
                                        const at::Tensor& rows);

/// The residual stream after the block.
at::Tensor run_wan_block(const format::WanDitConfig& config, const BlockWeights& weights,
                         const BlockState& state, const BlockMethods& methods);

}  // namespace quantsparse::calib
