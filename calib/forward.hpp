// Whole forward passes of the floating-point transformer, several inputs at a time.
#pragma once

#include <functional>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "calib/transformer.hpp"

namespace quantsparse::calib {

/// Sees the input rows [rows, width] of a group of linears. Called from several threads at once,
/// but never for the same input.
using Observer = std::function<void(std::size_t input, int block, std::string_view group,
                                    const at::Tensor& rows)>;

/// Sees q, k, v of a block's self-attention as BlockMethods::self_attention has them. Threads as
/// above.
using AttentionObserver =
    std::function<void(std::size_t input, int block, const BlockState& state, const at::Tensor& q,
                       const at::Tensor& k, const at::Tensor& v)>;

/// Sees what enters the first block, one state per input.
using BeforeBlocks = std::function<void(const std::vector<BlockState>& states)>;

/// Runs several inputs block by block, so that each block's weights are read once for all of them.
/// The inputs are divided among the threads: on small models and shared machines that is several
/// times faster than threads inside each operation.
class Forward {
  public:
    /// Keeps the blocks in memory when all of them take at most `cache_bytes` in fp32, else one
    /// block at a time. `component` must outlive the object.
    explicit Forward(const format::Component& component, int threads = 1,
                     std::uint64_t cache_bytes = std::uint64_t{2} << 30);

    /// Predictions, shaped as the latents. `after_block` is called between blocks, from the calling
    /// thread; it may throw to stop. Throws Error(non_finite) naming the block whose output is not
    /// finite. `before_blocks` may keep clones of the states.
    std::vector<at::Tensor> run(const std::vector<TransformerInput>& inputs,
                                const Observer& observer = {},
                                const std::function<void(int block)>& after_block = {},
                                const BeforeBlocks& before_blocks = {});

    const Transformer& transformer() const { return *transformer_; }
    void observe_attention(AttentionObserver observer) { on_attention_ = std::move(observer); }

  private:
    void run_block(int block, const BlockWeights& weights, BlockState& state, std::size_t input,
                   const Observer& observer) const;

    const format::Component& component_;
    std::unique_ptr<Transformer> transformer_;
    int threads_ = 1;
    bool cache_blocks_ = false;
    std::map<int, BlockWeights> cached_;
    AttentionObserver on_attention_;
};

}  // namespace quantsparse::calib
