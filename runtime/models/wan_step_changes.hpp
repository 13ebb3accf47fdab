// How much a Wan transformer's blocks are expected to change their output from step to step, told
// from the timesteps' embeddings alone (TeaCache, arXiv 2411.19108).
#pragma once

#include <span>
#include <vector>

#include "format/network.hpp"
#include "models/weights.hpp"

namespace quantsparse::models {

/// One entry a timestep, the first 0: poly(mean|e_i - e_(i-1)| / mean|e_(i-1)|) of the embeddings
/// e = time_embedding(timestep), with TeaCache's own polynomial for text-to-video 1.3B and 14B and
/// the plain ratio for other models. May be negative, as theirs are. Reads the checkpoint.
std::vector<double> wan_step_changes(const WeightSource& source, const format::Network& network,
                                     std::span<const float> timesteps);

}  // namespace quantsparse::models
