// The signs of the block Hadamard rotation (method 2.4); the rotation itself is format's.
#pragma once

#include <cstdint>
#include <vector>

namespace quantsparse::calib {

/// Random +-1 for each input channel, the same for a seed on every machine (Philox). `stream`: 1
/// and up, another for each group of linears.
std::vector<float> rotation_signs(std::uint64_t seed, std::uint64_t stream, int width);

}  // namespace quantsparse::calib
