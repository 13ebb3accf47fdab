// Single kernels at the shapes of real models, as Programs: what quantsparse-bench kernels times
// and quantsparse-bench isa compiles.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "program/executor.hpp"

namespace quantsparse::bench {

/// One kernel at one shape: what to build, which of its operations is timed, how much it does.
struct KernelCase {
    std::string kind;
    std::string name;
    std::function<void(program::Program&)> build;
    std::string operation;
    double operations = 0;
    double bytes = 0;                                           ///< read and written at least
    std::function<void(program::Executor&)> prepare = nullptr;  ///< after operands hold noise
    /// Of sparse attention: what it is measured beside, run by run.
    std::shared_ptr<const KernelCase> dense = nullptr;
    double block_density = 0;  ///< the share of that one's work that it does
    /// Of attention: the same on codes of eight bits, measured in the same turns.
    std::vector<std::shared_ptr<const KernelCase>> in_codes = {};
};

/// Of all kinds, for each count of tokens; sparse attention at `density`.
std::vector<KernelCase> kernel_cases(const std::vector<int>& tokens, double density,
                                     const program::Limits& limits);

}  // namespace quantsparse::bench
