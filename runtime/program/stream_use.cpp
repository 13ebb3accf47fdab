#include "program/stream_use.hpp"

#include <algorithm>

namespace quantsparse::program {
namespace {

std::size_t kind_of(const Program& program, std::uint32_t group) {
    return static_cast<std::size_t>(program.stream_groups()[group].kind);
}

bool holds(const std::vector<std::uint32_t>& groups, std::uint32_t group) {
    return std::find(groups.begin(), groups.end(), group) != groups.end();
}

/// The streamed group that a binding uses, else kNoGroup.
std::uint32_t group_of(const Program& program, const Plan& plan, const Binding& binding) {
    const bool used = binding.reads || binding.writes;
    return used && is_streamed(program, plan, binding.tensor)
               ? program.tensors()[binding.tensor.id].group
               : kNoGroup;
}

}  // namespace

bool is_streamed(const Program& program, const Plan& plan, Tensor tensor) {
    const std::uint32_t group = program.tensors()[tensor.id].group;
    return group != kNoGroup && plan.groups[group].streamed;
}

bool add_use(StreamUse& use, const Operation& operation, const Program& program, const Plan& plan) {
    StreamUse sum = use;
    for (const Binding& binding : operation.bindings) {
        const std::uint32_t group = group_of(program, plan, binding);
        if (group == kNoGroup) continue;
        const auto same_kind = [&](std::uint32_t other) {
            return kind_of(program, other) == kind_of(program, group);
        };
        const auto found = std::find_if(sum.groups.begin(), sum.groups.end(), same_kind);
        if (found == sum.groups.end())
            sum.groups.push_back(group);
        else if (*found != group)
            return false;
        if (binding.writes && !holds(sum.written, group)) sum.written.push_back(group);
    }
    use = std::move(sum);
    return true;
}

LookAhead::LookAhead(const Program& program, const Plan& plan,
                     std::span<const std::uint32_t> operations)
    : ahead_(operations.size() + 1) {
    ahead_.back().first.fill(kNoGroup);
    ahead_.back().second.fill(kNoGroup);
    for (std::size_t n = operations.size(); n-- > 0;) {
        Ahead& ahead = ahead_[n] = ahead_[n + 1];
        for (const Binding& binding : program.operations()[operations[n]].bindings) {
            const std::uint32_t group = group_of(program, plan, binding);
            if (group == kNoGroup) continue;
            const std::size_t kind = kind_of(program, group);
            if (ahead.first[kind] == group) continue;
            ahead.second[kind] = ahead.first[kind];
            ahead.first[kind] = group;
        }
    }
}

std::vector<std::uint32_t> LookAhead::next_groups(std::size_t n, const StreamUse& use) const {
    std::vector<std::uint32_t> next;
    const Ahead& ahead = ahead_[n];
    for (std::size_t kind = 0; kind < kStreamKinds; ++kind) {
        const std::uint32_t group =
            holds(use.groups, ahead.first[kind]) ? ahead.second[kind] : ahead.first[kind];
        if (group != kNoGroup) next.push_back(group);
    }
    return next;
}

}  // namespace quantsparse::program
