// Transformer blocks of a real configuration with pseudo-random weights, run step by step as a clip
// would run them.
#pragma once

#include <memory>
#include <vector>

#include "attention/step_schedule.hpp"
#include "measure.hpp"
#include "model.hpp"
#include "program/executor.hpp"

namespace quantsparse::bench {

/// The token grid that a number of tokens stands for: about as deep as it is wide.
struct TokenGrid {
    int frames = 0;
    int rows = 0;
    int columns = 0;
    int tokens() const { return frames * rows * columns; }
};
TokenGrid token_grid(int tokens);

/// "dense", "refresh" or "sparse".
const char* step_kind_name(attention::StepKind kind);

/// Mean of a refresh period in which each of the kinds of steps takes so long.
double period_mean(const AttentionParameters& attention,
                   const std::vector<attention::StepKind>& kinds,
                   const std::vector<double>& seconds);

/// options.layers blocks with embeddings and head, one guidance branch; none of the blocks is
/// always dense. Sparse attention goes on from two references, as after a clip's first period.
class Block {
  public:
    /// Allocates and uploads. Throws Error(out_of_memory) when the device has too little for it.
    Block(Device& device, const ModelOptions& options);
    ~Block();

    const StagePlan& plan() const;
    /// What the constructor would allocate; nothing is.
    static StagePlan plan_of(Device& device, const ModelOptions& options);
    /// The kinds of steps of a refresh period, each once.
    const std::vector<attention::StepKind>& kinds() const { return kinds_; }
    /// Operations of matrix products and attention in such a step.
    double work(attention::StepKind kind) const;

    /// Compiles all kernels and fills the references.
    void warm_up();
    /// Seconds of one step.
    double run(attention::StepKind kind);
    /// Throws Error(non_finite) when the last step's result is no number.
    void check_finite() const;

    const program::Executor& executor() const { return *executor_; }

  private:
    struct Network;  ///< declared, not yet allocated

    int step_of(attention::StepKind kind) const;

    std::unique_ptr<Network> network_;
    std::vector<attention::StepKind> kinds_;
    std::unique_ptr<program::Executor> executor_;
};

}  // namespace quantsparse::bench
