// The signs of the block Hadamard rotation (method 2.4); the rotation itself is format's.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/activations.hpp"

namespace quantsparse::calib {

/// Random +-1 for each input channel, the same for a seed on every machine (Philox).
std::vector<float> rotation_signs(std::uint64_t seed, int block, InputGroup group, int width);

}  // namespace quantsparse::calib
