// How an operation that is too long for one submission is cut into several.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "program/program.hpp"

namespace quantsparse::program {

/// What is recorded next: an operation, or the rest of one from a work-group on.
struct Cursor {
    std::size_t operation = 0;         ///< of the phase
    std::uint32_t slab = 0, cell = 0;  ///< along its longest axis, and along the second inside
};

/// Work-groups that are dispatched together.
struct Slice {
    std::array<std::uint32_t, 3> first = {0, 0, 0};
    std::array<std::uint32_t, 3> count = {0, 0, 0};
    double share = 0;  ///< of the operation's work
};

/// The next work-groups of an operation that takes `seconds` in all, such that they fit into
/// `budget`, or a single one where even that is longer; nothing when all that remains fits only a
/// submission of its own and `fresh` says that this is none. Moves the cursor.
std::optional<Slice> take_slice(const Operation& operation, double seconds, double budget,
                                bool fresh, Cursor& cursor);

}  // namespace quantsparse::program
