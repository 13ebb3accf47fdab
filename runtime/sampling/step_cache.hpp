// Steps that do without the transformer's blocks because the last ones' output still serves
// (TeaCache, arXiv 2411.19108). Host logic only, known before the first step.
#pragma once

#include <span>
#include <vector>

namespace quantsparse::sampling {

/// True for steps that reuse. `changes[i]`: by how much the blocks' output is expected to change
/// from step i - 1 to i, relative to its size; the first and the last step are always computed.
/// A step reuses while the changes since the last computed step add up to less than `threshold`;
/// none does for a threshold of 0.
std::vector<bool> reused_steps(std::span<const double> changes, double threshold);

}  // namespace quantsparse::sampling
