// How a clip is integrated from noise to data.
#pragma once

namespace quantsparse {

/// `lcm` adds fresh noise after each step: for models distilled to few steps. `ddim` is for models
/// that were trained on betas; a flow refuses it.
enum class Sampler { unipc, dpmpp, euler, lcm, ddim };

}  // namespace quantsparse
