// Philox-4x32-10, a counter-based generator: block n of a stream is computed without its
// predecessors. J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11.
#pragma once

#include <array>
#include <cstdint>

namespace quantsparse::sampling {

std::array<std::uint32_t, 4> philox_4x32_10(std::array<std::uint32_t, 4> counter,
                                            std::array<std::uint32_t, 2> key);

}  // namespace quantsparse::sampling
