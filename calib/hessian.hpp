// What rounding with error feedback needs to know of a block's inputs: H = sum x^T x of each group
// of linears, over the rows of the samples kept for training (method 2.6).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "calib/method.hpp"
#include "calib/samples.hpp"
#include "calib/transformer.hpp"

namespace quantsparse::calib {

/// By group: sum of x^T x over the raw rows that enter it, fp32 [width, width].
using BlockHessians = std::map<std::string, at::Tensor, std::less<>>;

struct BlockObservation {
    BlockHessians hessians;
    std::vector<at::Tensor> outputs;  ///< of the block, for each training sample
};

/// Runs the floating-point block on the training samples, as they stand in the floating-point or in
/// the quantised model before it. One sample per thread, but at least a pair, is held at a time,
/// and all of the sums; they are the same for any number of threads.
///
/// `guidance` g: a pair of samples is one input with the prompt and without, and what the model
/// makes of them is combined to u + g (c - u). An error of a weight reaches that through the rows
/// combined alike, which are added as further rows. Not for g = 1, nor for groups that text enters
/// once per prompt: their rows are not of one token.
BlockObservation observe_block(const Transformer& transformer, const BlockWeights& weights,
                               const SampleSet& samples, BlockInputs inputs, double guidance,
                               int threads);

}  // namespace quantsparse::calib
