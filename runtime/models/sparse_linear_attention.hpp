// The self-attention of transformers that were trained with sparse-linear attention (SLA, arXiv
// 2509.24006; sla fact 88): the best blocks of keys by softmax, and all keys by a linear branch.
#pragma once

#include <string>

#include "kernels/block_choice.hpp"
#include "kernels/matmul.hpp"
#include "program/executor.hpp"

namespace quantsparse::models {

/// What a row of blocks of queries chooses (sla fact 89): the int(density * blocks) blocks of 64
/// keys with the highest scores, one at least, for 128 queries at a time. Nothing by position.
kernels::BlockRule sparse_linear_rule(int tokens, double density);

class SparseLinearAttention {
  public:
    /// Throws Error(invalid_argument) where the device can't bind the lists of blocks.
    SparseLinearAttention(kernels::Program& program, int tokens, int heads, double density);

    /// out[tokens, heads * head_dim] = softmax over the chosen blocks + projection(linear branch).
    /// `projection`: fp32 [head_dim, head_dim] with bias, the same for all heads.
    void build(const std::string& name, const kernels::HeadMatrix& q, const kernels::HeadMatrix& k,
               const kernels::HeadMatrix& v, const kernels::FloatWeight& projection,
               AttentionProducts products, const kernels::Matrix& out);

    /// Before the first step of a clip.
    void reset(program::Executor& executor) const;

  private:
    kernels::Program& program_;
    kernels::BlockRule rule_;
    kernels::Tensor sight_;  ///< of the lists: zeros
};

/// Throws Error(invalid_argument) naming block_size or, of SLA, density where the lists of chosen
/// blocks are larger than a kernel can bind.
void require_lists_fit(const kernels::BlockRule& rule, const program::Limits& limits, int heads,
                       const char* remedy, const char* field);

}  // namespace quantsparse::models
