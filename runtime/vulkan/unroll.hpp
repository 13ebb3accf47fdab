// Unrolling loops before a driver sees them, for drivers that don't
// (Quirks::leaves_loops_rolled).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quantsparse::vulkan {

/// The module with its specialisation constants fixed (`specialization[i]` is constant id i) and
/// the loops that ask for it unrolled, so that arrays become values. Empty where that can't be
/// done: the caller takes the module as it is.
std::vector<std::uint32_t> unrolled(std::span<const std::uint32_t> words,
                                    const std::vector<std::uint32_t>& specialization);

}  // namespace quantsparse::vulkan
