// What the blocks of every diffusion transformer share.
#pragma once

#include <string>
#include <vector>

#include "kernels/rows.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

/// Notices where tokens stop being finite: norms read them anyway.
class FiniteWatch {
  public:
    /// `sites`: what made the tokens that a norm reads, in the order of computation.
    FiniteWatch(Program& program, std::vector<std::string> sites);
    /// A norm that watches its input.
    kernels::Norm norm(int site, float eps) const;
    void reset(program::Executor& executor) const { executor.clear(flags_); }
    /// The first site with a value that is not finite since reset(); empty: none.
    std::string first(const program::Executor& executor) const;

  private:
    Tensor flags_;  ///< uint32 [sites]
    std::vector<std::string> sites_;
};

/// Where a block's vectors lie in a modulation tensor, in floats; negative: it has none.
struct Modulation {
    Tensor tensor;
    int shift = 0;
    int scale = 0;
    int gate = -1;
};

/// out = norm(x) (1 + scale) + shift, into a new matrix.
Matrix modulated_norm(Program& program, const std::string& name, const Matrix& x,
                      kernels::Norm norm, const Modulation& modulation);

/// x += gate * linear(input); without a gate x += linear(input).
void add_output(Program& program, const std::string& name, const Linear& linear,
                const Matrix& input, const Matrix& x, const Modulation& modulation);

/// x += gate * down(gelu_tanh(up(norm(x)))), some thousand tokens at a time: that bounds the hidden
/// layer, the largest activation.
void feed_forward(Program& program, const Linear& up, const Linear& down, const Matrix& x,
                  const kernels::Norm& norm, const Modulation& modulation);

}  // namespace quantsparse::models
