#include "program/hazards.hpp"

#include <algorithm>

namespace quantsparse::program {

bool HazardTracker::needs_barrier(const Operation& operation) {
    const bool barrier = std::any_of(operation.bindings.begin(), operation.bindings.end(),
                                     [this](const Binding& b) { return conflicts(b); });
    if (barrier) {
        read_.clear();
        written_.clear();
    }
    for (const Binding& binding : operation.bindings) {
        if (binding.reads) read_.push_back(range_of(binding));
        if (binding.writes) written_.push_back(range_of(binding));
    }
    return barrier;
}

HazardTracker::Range HazardTracker::range_of(const Binding& binding) const {
    const Place& place = plan_.places[binding.tensor.id];
    const std::uint64_t begin = place.offset + binding.offset;
    return {place.block, begin, begin + binding.bytes};
}

bool HazardTracker::conflicts(const Binding& binding) const {
    if (!binding.reads && !binding.writes) return false;
    const Range range = range_of(binding);
    const auto overlaps = [&](const Range& other) {
        return other.block == range.block && other.begin < range.end && range.begin < other.end;
    };
    return std::any_of(written_.begin(), written_.end(), overlaps) ||
           (binding.writes && std::any_of(read_.begin(), read_.end(), overlaps));
}

}  // namespace quantsparse::program
