// How long a step of a real model would take on an AMD GPU that isn't there: a prediction from what
// its compiler says of each kernel and the GPU's published unit counts, clock and bandwidth.
#pragma once

#include <string>

#include "report.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::bench {

/// Prints and returns the predictions for `family`, an empty array for one whose figures are not
/// known here. `device` must have been opened for inspection.
///
/// Matrix products and attention: ACO's inverse throughput (cycles a SIMD is busy with 64 lanes)
/// for each product it counts, or issuing the hottest loop where that takes longer, times the
/// products there are, over all SIMDs at boost clock; no less than the bytes of all operands at
/// full bandwidth. Everything else: bytes at full bandwidth. Nothing overlaps, starting a kernel
/// takes no time, caches hold what is read twice.
Json predict_steps(vulkan::Device& device, const std::string& family);

}  // namespace quantsparse::bench
