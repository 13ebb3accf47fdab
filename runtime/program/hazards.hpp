// When operations that are recorded one after another need a barrier between them.
#pragma once

#include <cstdint>
#include <vector>

#include "program/plan.hpp"
#include "program/program.hpp"

namespace quantsparse::program {

/// What operations since the last barrier have touched.
class HazardTracker {
  public:
    explicit HazardTracker(const Plan& plan) : plan_(plan) {}

    /// True where the operation touches what was written, or writes what was read, since the last
    /// barrier: one must come before it. Counts the operation as recorded.
    bool needs_barrier(const Operation& operation);

  private:
    struct Range {
        std::uint32_t block;
        std::uint64_t begin, end;
    };
    Range range_of(const Binding& binding) const;
    bool conflicts(const Binding& binding) const;

    const Plan& plan_;
    std::vector<Range> read_, written_;
};

}  // namespace quantsparse::program
