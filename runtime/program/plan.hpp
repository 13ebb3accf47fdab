// From a Program's tensors and their uses to places in a few memory blocks, before anything is
// allocated.
#pragma once

#include <cstdint>
#include <vector>

#include "program/program.hpp"

namespace quantsparse::program {

struct Place {
    std::uint32_t block = 0;
    std::uint64_t offset = 0;
};

struct Plan {
    std::vector<Place> places;  ///< per tensor
    std::vector<std::uint64_t> block_bytes;
    std::uint64_t constant_bytes = 0;         ///< of all blocks, what holds weights
    std::uint64_t working_bytes = 0;          ///< transient and persistent tensors
    std::uint64_t largest_binding_bytes = 0;  ///< over all operations
};

/// Places transient tensors greedily, largest first, into the lowest gap free during their
/// lifetime; tensors of different phases never live together. Throws Error(out_of_memory) when one
/// tensor exceeds what the device allocates at once.
Plan make_plan(const Program& program);

}  // namespace quantsparse::program
