// A block's quantised linears run as the runtime runs them, from what the model file stores, and
// the errors that a quantised block makes.
#pragma once

#include "calib/quantize_block.hpp"
#include "calib/samples.hpp"
#include "calib/wan_block.hpp"

namespace quantsparse::calib {

class QuantizedBlock {
  public:
    QuantizedBlock(const std::vector<QuantizedLinear>& linears, int weight_bits,
                   int activation_bits);
    std::vector<at::Tensor> project(InputGroup group, const at::Tensor& rows) const;

  private:
    struct Group {
        at::Tensor channel_scale;         ///< [k]
        at::Tensor rotation;              ///< [k / b, b, b]; undefined: none
        at::Tensor clip;                  ///< scalar; undefined: 1
        std::vector<at::Tensor> weights;  ///< dequantised [n, k]
        std::vector<at::Tensor> biases;
    };
    std::vector<Group> groups_;  ///< as kInputGroups
    int activation_bits_ = 8;
};

/// Means over samples.
struct BlockErrors {
    double own = 0;           ///< |y - y_fp|^2 / |y_fp - x_fp|^2 on floating-point inputs
    double prefix = 0;        ///< the same on the inputs the quantised blocks before give
    double pooled_map = 0;    ///< distillation.hpp's map_error of the pooled map, on those inputs
    double salient_rows = 0;  ///< of the rows of the salient tokens
    double full_map = 0;      ///< of all rows, in tiles
};

/// Measures the block on the samples held out and moves all samples behind it.
BlockErrors evaluate_and_advance(const format::WanDitConfig& config, const BlockWeights& weights,
                                 const QuantizedBlock& quantized, const LearningOptions& options,
                                 SampleSet& samples);

}  // namespace quantsparse::calib
