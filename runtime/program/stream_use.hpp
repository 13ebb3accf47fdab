// Which streamed groups (residency.hpp) the operations of a submission use, and which come next.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "program/plan.hpp"
#include "program/program.hpp"

namespace quantsparse::program {

/// The streamed groups that operations use, at most one of each kind.
struct StreamUse {
    std::vector<std::uint32_t> groups;
    std::vector<std::uint32_t> written;
};

bool is_streamed(const Program& program, const Plan& plan, Tensor tensor);

/// Adds what the operation uses; false (and nothing added) when it needs another group of a kind
/// than those in `use`, whose slot may be being filled.
bool add_use(StreamUse& use, const Operation& operation, const Program& program, const Plan& plan);

/// What a phase needs from each of its operations on.
class LookAhead {
  public:
    LookAhead() = default;
    /// `operations`: of the phase, as indices into the program's.
    LookAhead(const Program& program, const Plan& plan, std::span<const std::uint32_t> operations);

    /// Of each kind the group to fetch while a submission runs that uses `use` and ends before
    /// operation `n` of the phase.
    std::vector<std::uint32_t> next_groups(std::size_t n, const StreamUse& use) const;

  private:
    /// Of each kind the first group that is used from an operation on, and the first other one
    /// after it.
    struct Ahead {
        std::array<std::uint32_t, kStreamKinds> first, second;
    };
    std::vector<Ahead> ahead_;
};

}  // namespace quantsparse::program
