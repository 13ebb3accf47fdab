// quantsparse-bench isa: what Mesa's compiler for AMD GPUs makes of the kernels, without such a
// GPU.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quantsparse::bench {

struct IsaOptions {
    std::vector<std::string> families = {"navi21", "gfx1100"};  ///< as RADV_FORCE_FAMILY takes them
    std::filesystem::path driver = "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json";
    std::filesystem::path json;      ///< empty: not written
    std::filesystem::path compare;   ///< an earlier JSON of the same driver
    std::filesystem::path assembly;  ///< folder for the kernels' assembly; empty: not written
};

/// False when a kernel spills registers (more than in `compare`, where that has it) or is slower
/// than there.
bool run_isa(const IsaOptions& options);

}  // namespace quantsparse::bench
