// A block's quantised linears run as the runtime runs them, from what the model file stores, and
// the errors that a quantised block makes.
#pragma once

#include "calib/quantize_block.hpp"
#include "calib/samples.hpp"
#include "calib/transformer.hpp"

namespace quantsparse::calib {

class QuantizedBlock {
  public:
    /// `weights`: of the block, for groups that are not among the linears; must outlive the object.
    QuantizedBlock(const std::vector<QuantizedLinear>& linears, const BlockWeights& weights);
    std::vector<at::Tensor> project(std::string_view group, const at::Tensor& rows) const;

  private:
    struct Group {
        at::Tensor channel_scale;         ///< [k]
        at::Tensor rotation;              ///< [k / b, b, b]; undefined: none
        at::Tensor clip;                  ///< scalar; undefined: 1
        std::vector<at::Tensor> weights;  ///< dequantised [n, k]
        std::vector<at::Tensor> biases;
        std::vector<at::Tensor> downs, ups;  ///< beside the codes; undefined: none
        int activation_bits = 8;
    };
    std::map<std::string, Group, std::less<>> groups_;
    const BlockWeights& weights_;
};

/// Means over samples.
struct BlockErrors {
    double own = 0;           ///< |y - y_fp|^2 / |y_fp - x_fp|^2 on floating-point inputs
    double prefix = 0;        ///< the same on the inputs the quantised blocks before give
    double pooled_map = 0;    ///< distillation.hpp's map_error of the pooled map, on those inputs
    double salient_rows = 0;  ///< of the rows of the salient tokens
    double full_map = 0;      ///< of all rows, in tiles
};

/// BlockErrors::prefix alone, before the samples are moved on.
double held_out_error(const Transformer& transformer, const BlockWeights& weights,
                      const QuantizedBlock& quantized, const SampleSet& samples, int threads);

/// Which states of the training samples later blocks read; the others are dropped.
struct NeededStates {
    bool exact = true;
    bool quantized = true;
};

/// Measures the block on the samples held out and moves the samples behind it. `exact_outputs`:
/// what the floating-point block gives for training samples, where that is known; or empty. The
/// same results for any number of threads.
BlockErrors evaluate_and_advance(const Transformer& transformer, const BlockWeights& weights,
                                 const QuantizedBlock& quantized, const LearningOptions& options,
                                 const NeededStates& needed,
                                 const std::vector<at::Tensor>& exact_outputs, int threads,
                                 SampleSet& samples);

}  // namespace quantsparse::calib
