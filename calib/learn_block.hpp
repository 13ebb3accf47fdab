// Block-wise reconstruction with attention distillation (method 3.3): the quantisation of a
// block learned so that its output, and the map of its self-attention, stay those of the
// floating-point block.
#pragma once

#include "calib/learnable_block.hpp"
#include "calib/samples.hpp"

namespace quantsparse::calib {

/// Means over the samples held out.
struct BlockLosses {
    double output = 0;  ///< mean squared error of the block's output
    double global = 0;  ///< distillation.hpp's map_error of the pooled map
    double local = 0;   ///< of the salient queries' rows
    double temporal = 0;
};

struct LearningReport {
    BlockLosses start, best;
    double lambda_global = 0;  ///< in effect
    double lambda_local = 0;
    int best_epoch = 0;  ///< 0: the start
    /// Rounded with error feedback, the start is better than the best epoch and is kept.
    bool kept_start = false;
};

/// Learns from `samples`, which stand before the block; `learnable` holds the best epoch's
/// parameters afterwards.
LearningReport learn_block(const Transformer& transformer, const BlockWeights& weights, int block,
                           const CollectedActivations& activations, const SampleSet& samples,
                           const CalibrationOptions& options, LearnableBlock& learnable);

}  // namespace quantsparse::calib
