#include "program/residency.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <array>

#include "program/plan.hpp"

namespace quantsparse::program {
namespace {

using Kind = StreamGroup::Kind;

/// In the order in which they are given up.
constexpr std::array<Kind, kStreamKinds> kOrder = {Kind::prompt_weights, Kind::residuals,
                                                   Kind::prompt, Kind::weights};

std::vector<std::uint32_t> groups_of(const Program& program, Kind kind) {
    std::vector<std::uint32_t> groups;
    for (std::uint32_t g = 0; g < program.stream_groups().size(); ++g) {
        if (program.stream_groups()[g].kind == kind) groups.push_back(g);
    }
    return groups;
}

std::uint64_t total_bytes(const Plan& plan) {
    return plan.constant_bytes + plan.working_bytes;
}

}  // namespace

bool Residency::any() const {
    return std::find(streamed.begin(), streamed.end(), true) != streamed.end();
}

Residency choose_residency(const Program& program, std::uint64_t budget_bytes) {
    Residency residency;
    const std::uint64_t resident = total_bytes(make_plan(program));
    if (budget_bytes == 0 || resident <= budget_bytes) return residency;

    const std::vector<std::uint64_t> bytes = group_bytes(program);
    residency.streamed.assign(bytes.size(), false);
    std::uint64_t saved = 0;
    for (const Kind kind : kOrder) {
        std::vector<std::uint32_t> groups = groups_of(program, kind);
        std::erase_if(groups, [&](std::uint32_t g) {
            return bytes[g] == 0 || bytes[g] > program.limits().max_block_bytes;
        });
        const std::size_t count = groups.size();
        std::vector<bool> best;
        std::uint64_t best_saved = 0;
        for (std::size_t streamed = 3; streamed <= count; ++streamed) {
            std::vector<bool> chosen(bytes.size(), false);
            std::uint64_t sum = 0, largest = 0;
            for (std::size_t i = 0; i < count; ++i) {
                if ((i + 1) * streamed / count == i * streamed / count) continue;
                chosen[groups[i]] = true;
                sum += bytes[groups[i]];
                largest = std::max(largest, bytes[groups[i]]);
            }
            if (sum <= 2 * largest || sum - 2 * largest <= best_saved) continue;
            best = chosen;
            best_saved = sum - 2 * largest;
            if (resident - saved - best_saved <= budget_bytes) break;
        }
        if (best_saved == 0) continue;
        saved += best_saved;
        for (const std::uint32_t g : groups) residency.streamed[g] = best[g];
        if (resident - saved <= budget_bytes) break;
    }
    return residency;
}

std::string describe(const Program& program, const Residency& residency) {
    constexpr std::array<const char*, kStreamKinds> kNames = {"weights", "prompt weights",
                                                              "prompt keys", "residuals"};
    std::string text;
    for (const Kind kind : kOrder) {
        const auto groups = groups_of(program, kind);
        const auto streamed = std::count_if(groups.begin(), groups.end(),
                                            [&](std::uint32_t g) { return residency.streams(g); });
        if (streamed == 0) continue;
        text += fmt::format("{}{} of {} groups of {}", text.empty() ? "" : ", ", streamed,
                            groups.size(), kNames[static_cast<std::size_t>(kind)]);
    }
    return text.empty() ? "all resident" : text + " streamed from host memory";
}

}  // namespace quantsparse::program
