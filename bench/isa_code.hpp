// One kernel as a compiler for GPUs sees it: assembly, statistics, the instructions of its hottest
// loop.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "program/program.hpp"
#include "vulkan/device.hpp"

namespace quantsparse::bench {

/// What the driver says of one kernel.
struct KernelCode {
    std::map<std::string, std::uint64_t> statistics;
    std::string assembly;
};

/// Instructions of a loop by class.
struct Mix {
    int vector = 0;
    int dot = 0;
    int matrix = 0;       ///< v_wmma
    int packed_half = 0;  ///< v_pk_*_f16
    int fused = 0;        ///< multiply-adds in fp32, a dual one counts twice
    int memory = 0;       ///< global, buffer, scratch and LDS
    int all = 0;

    int products() const { return dot + matrix + packed_half + fused; }
};

/// Name of the kernel and its specialisation, the same for equal code.
std::string kernel_name(const program::Operation& operation);

/// Compiles the operation's kernel. `device` must have been opened for inspection.
KernelCode compile(vulkan::Device& device, const program::Operation& operation);

/// Every innermost loop, in the order of the code: from a block's label to the last branch back to
/// it.
std::vector<Mix> innermost_loops(const std::string& assembly);

/// The innermost loop with the most products, or the longest where there are none.
Mix hot_loop(const std::string& assembly);

/// Multiplications and additions of dot4 and fused instructions that a lane does from the kernel's
/// start to its end, were every loop run 8 times: what ACO's "inverse throughput" assumes.
double assumed_products(const std::string& assembly);

}  // namespace quantsparse::bench
