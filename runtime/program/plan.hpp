// From a Program's tensors and their uses to places in a few memory blocks, before anything is
// allocated.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "program/program.hpp"
#include "program/residency.hpp"

namespace quantsparse::program {

struct Place {
    std::uint32_t block = 0;
    std::uint64_t offset = 0;
};

/// Where a stream group is: one piece in host memory and one in a slot of the device. Its tensors
/// lie in both at the same offsets from there.
struct StreamPlace {
    bool streamed = false;
    std::uint32_t slot = 0;  ///< numbered over all kinds; groups of a slot exclude each other
    std::uint64_t bytes = 0;
    Place device;
    Place host;
};

struct Plan {
    std::vector<Place> places;  ///< per tensor, on the device
    std::vector<std::uint64_t> block_bytes;
    std::vector<StreamPlace> groups;              ///< per stream group
    std::vector<std::uint64_t> host_block_bytes;  ///< what streamed groups take of host memory
    std::uint32_t slots = 0;
    /// By StreamGroup::Kind: what its groups take of the device (slots included) and of the host.
    std::array<std::uint64_t, kStreamKinds> device_bytes_of_kind = {};
    std::array<std::uint64_t, kStreamKinds> host_bytes_of_kind = {};
    std::uint64_t constant_bytes = 0;         ///< of all blocks, what holds weights
    std::uint64_t working_bytes = 0;          ///< transient and persistent tensors
    std::uint64_t largest_binding_bytes = 0;  ///< over all operations
};

/// Places transient tensors greedily, largest first, into the lowest gap free during their
/// lifetime; tensors of different phases never live together. Throws Error(out_of_memory) when one
/// tensor exceeds what the device allocates at once. A phase uses the streamed groups of a kind in
/// turns: consecutive ones get different slots, so that one can be filled while the other is used.
Plan make_plan(const Program& program, const Residency& residency = {});

/// Bytes of each stream group as the plan places them.
std::vector<std::uint64_t> group_bytes(const Program& program);

}  // namespace quantsparse::program
