// Floating-point Wan DiT and UMT5 encoder on LibTorch, for running the unquantised model on the
// CPU. Facts cited in comments are those of docs/networks.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "calib/activations.hpp"
#include "calib/wan_block.hpp"
#include "format/checkpoint.hpp"

namespace quantsparse::calib {

/// A tensor as fp32. Throws Error(non_finite) naming it when it holds NaN or infinity.
at::Tensor load_tensor(const format::Checkpoint& checkpoint, const std::string& name);

/// The float values of a contiguous CPU tensor.
std::span<const float> values_of(const at::Tensor& tensor);

/// Sees the input rows [tokens, width] of a group of linears. Called from several threads at once,
/// but never for the same input.
using Observer =
    std::function<void(std::size_t input, int block, InputGroup group, const at::Tensor& rows)>;

/// Sees what enters the first block, one state per input.
using BeforeBlocks = std::function<void(const std::vector<BlockState>& states)>;

struct DitInput {
    at::Tensor latent;    ///< [in_dim, frames, height, width]
    at::Tensor context;   ///< [tokens, text_dim], unpadded
    double timestep = 0;  ///< 0..1000
};

/// Runs several inputs block by block, so that each block's weights are read once for all of them.
/// The inputs are divided among the threads: on small models and shared machines that is several
/// times faster than threads inside each operation.
class WanDit {
  public:
    /// Keeps the blocks in memory when all of them take at most `cache_bytes` in fp32, else one
    /// block at a time.
    WanDit(const format::Checkpoint& checkpoint, const format::WanDitConfig& config,
           int threads = 1, std::uint64_t cache_bytes = std::uint64_t{2} << 30);

    /// Velocities [out_dim, frames, height, width]. `after_block` is called between blocks, from
    /// the calling thread; it may throw to stop. Throws Error(non_finite) naming the block whose
    /// output is not finite. `before_blocks` may keep clones of the states.
    std::vector<at::Tensor> forward(const std::vector<DitInput>& inputs,
                                    const Observer& observer = {},
                                    const std::function<void(int block)>& after_block = {},
                                    const BeforeBlocks& before_blocks = {});

    /// What enters the first block, and what the head makes of what leaves the last.
    BlockState prepare(const DitInput& input) const;
    at::Tensor velocity(const BlockState& state) const;

  private:
    void run_block(int block, const BlockWeights& weights, BlockState& state, std::size_t input,
                   const Observer& observer) const;
    at::Tensor top(const std::string& name) const;

    const format::Checkpoint& checkpoint_;
    format::WanDitConfig config_;
    int threads_ = 1;
    bool cache_blocks_ = false;
    std::map<int, BlockWeights> cached_;
    BlockWeights top_;
};

/// The text states [valid tokens, dim] of one tokenised prompt; one layer's weights in memory at a
/// time.
at::Tensor encode_text(const format::Checkpoint& checkpoint, const format::Umt5Config& config,
                       const std::vector<int>& ids, const std::function<void()>& after_layer = {});

}  // namespace quantsparse::calib
