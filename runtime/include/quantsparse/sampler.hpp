// How a clip is integrated from noise to data.
#pragma once

namespace quantsparse {

/// `lcm` adds fresh noise after each step: for models distilled to few steps.
enum class Sampler { unipc, dpmpp, euler, lcm };

}  // namespace quantsparse
