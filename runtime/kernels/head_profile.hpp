// Which heads look along space and which along time: decided on the device, from a few queries.
#pragma once

#include "kernels/attention.hpp"

namespace quantsparse::kernels {

/// Decides each head's type on `samples` queries: the one whose mask changes their output less,
/// spatial when equal. q, k and v frame by frame; `order` is the one that its types would have, and
/// uint32 [heads] are written there. Returns the
/// squared changes, fp32 [heads, samples, 2] for the spatial and the temporal mask (transient),
/// over up to 32 columns of a head: every n-th four.
Tensor profile_heads(Program& program, const std::string& name, const HeadMatrix& q,
                     const HeadMatrix& k, const HeadMatrix& v, float scale, const BlockList& blocks,
                     const TokenOrder& order, int samples = 64);

}  // namespace quantsparse::kernels
