// How kernels with one invocation for each element are dispatched.
#pragma once

#include <array>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

/// In two group dimensions: one alone may be limited to 65,535 groups.
inline std::array<std::uint32_t, 3> groups_for(std::uint64_t count, std::uint32_t lanes) {
    const std::uint32_t groups = ceil_div(count, lanes);
    const std::uint32_t x = std::min(groups, 32768u);
    return {x, ceil_div(groups, x), 1};
}

/// Elements lie in order: y * gl_NumWorkGroups.x + x.
inline program::Cuts cuts_for(const std::array<std::uint32_t, 3>& groups) {
    return {groups[1] == 1, true, true};
}

inline std::uint32_t lanes_of(const Program& program) {
    return program.limits().runs_on_cpu ? 32 : 64;
}

}  // namespace quantsparse::kernels
