// quantsparse-bench velocity: how far quantised and sparse predictions are from the unquantised
// model's on the same latents.
#pragma once

#include "quality/table.hpp"

namespace quantsparse::bench {

/// Blocks for as long as the table takes; Ctrl-C ends it after the submission at hand, and the same
/// command goes on from there. False when it was stopped.
bool run_velocity(const TableOptions& options);

}  // namespace quantsparse::bench
