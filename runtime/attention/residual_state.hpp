// What SSAR keeps between refreshes, for each layer and guidance branch: the residuals of the last
// refreshes (D = full - sparse attention, in the storage asked for), rank-r factors of the last two
// residuals' difference, and per head how many residuals belong to its present mask.
//
// What changes from step to step (weights of the residuals, which slot is written) lies in one
// small buffer a branch, so that command buffers are recorded once.
#pragma once

#include <vector>

#include "attention/low_rank.hpp"
#include "attention/step_schedule.hpp"
#include "kernels/residual.hpp"
#include "program/executor.hpp"

namespace quantsparse::attention {

using kernels::Residual;

struct ResidualOptions {
    SsarMode mode = SsarMode::svd;  ///< first, second, third or svd
    ResidualStorage storage = ResidualStorage::int8;
    int rank = 16;
    int tokens = 0;
    int heads = 0;
    int head_dim = 0;
};

/// What happened in a layer and branch since reset().
struct ResidualReport {
    int layer = 0;
    int branch = 0;
    std::vector<std::uint32_t> types;  ///< of each head at the last refresh
    std::vector<std::uint32_t> flips;  ///< how often each head's type changed between refreshes
    std::uint32_t refused = 0;         ///< refreshes whose difference was larger than the residual
    std::uint32_t non_finite = 0;      ///< refreshes whose residual was not finite
};

class ResidualState {
  public:
    /// Declares the tensors of layers first_layer .. layers-1; the layers before are always dense.
    ResidualState(Program& program, const ResidualOptions& options, int first_layer, int layers,
                  int branches);

    const Residual& at(int layer, int branch) const;

    /// Appends what a refresh does: from attention over all keys and over the mask (which is
    /// overwritten) to the new state. `head_types`: uint32 [heads] or invalid.
    void refresh(const std::string& name, int layer, int branch, const Matrix& full,
                 const Matrix& sparse, Tensor head_types);

    /// Forgets everything: before the first step of a clip.
    void reset(program::Executor& executor) const;
    /// Before each refresh or sparse step of the branch.
    void write(program::Executor& executor, int branch, const Correction& correction) const;

    std::vector<ResidualReport> report(const program::Executor& executor) const;
    int branches() const { return branches_; }
    std::uint64_t bytes() const { return bytes_; }

  private:
    Tensor add(const std::string& name, std::uint64_t bytes);
    Residual declare(int layer, int branch);

    Program& program_;
    ResidualOptions options_;
    int first_layer_;
    int layers_;
    int branches_;
    std::vector<Tensor> control_;      ///< per branch
    std::vector<Residual> residuals_;  ///< [branch, layer - first_layer]
    std::uint64_t bytes_ = 0;
};

}  // namespace quantsparse::attention
