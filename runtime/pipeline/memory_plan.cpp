// What a MemoryPlan says in words.
#include <fmt/format.h>
#include <algorithm>

#include "quantsparse/error.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse {
namespace {

constexpr std::uint64_t kMiB = 1ull << 20;

/// Rounded up, so that what is named suffices.
std::string mebibytes(std::uint64_t bytes) {
    return fmt::format("{} MiB", (bytes + kMiB - 1) / kMiB);
}

}  // namespace

std::string MemoryPlan::decision() const {
    std::string text;
    for (const StagePlan& stage : stages) {
        text += fmt::format("{}{} {}", text.empty() ? "" : ", ", stage.stage, stage.residency);
    }
    text += fmt::format("; peak {}", mebibytes(peak_bytes));
    if (budget_bytes == 0) return text + ", the device's budget is not known";
    text += fmt::format(" of {} allowed", mebibytes(budget_bytes));
    if (resident_bytes > budget_bytes) {
        text += fmt::format(", all resident dit would take {}", mebibytes(resident_bytes));
    }
    return text;
}

void MemoryPlan::require_fit() const {
    if (fits()) return;
    const auto largest = std::max_element(
        stages.begin(), stages.end(),
        [](const StagePlan& a, const StagePlan& b) { return a.total_bytes() < b.total_bytes(); });
    throw Error(
        ErrorCode::out_of_memory,
        fmt::format("stage {} needs {} ({} weights, {} activations{}), {} are allowed: the least "
                    "that works is {}M; or make the clip smaller or shorter",
                    largest->stage, mebibytes(largest->total_bytes()),
                    mebibytes(largest->weight_bytes), mebibytes(largest->activation_bytes),
                    largest->residual_bytes
                        ? fmt::format(", {} residuals", mebibytes(largest->residual_bytes))
                        : "",
                    mebibytes(budget_bytes), (least_bytes + kMiB - 1) / kMiB),
        "memory_limit");
}

}  // namespace quantsparse
