// quantsparse-bench kernels: single kernels at the shapes of real models, each against the device's
// own measured peak.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quantsparse/device.hpp"

namespace quantsparse::bench {

struct KernelOptions {
    DeviceOptions device;
    int repeats = 5;
    /// Kinds: gemm, quantize, norm, attention, sparse, refresh; empty: all.
    std::vector<std::string> only;
    bool codes = false;  ///< attention in codes of eight bits, too
    std::vector<int> tokens = {512, 1024};
    double density = 0.25;  ///< of the sparse ones
    int matrix_tile = -1;   ///< of kernels/matrix_tiles.hpp; -1: as the runtime chooses
    std::filesystem::path json;
    std::filesystem::path html;
    std::filesystem::path compare;  ///< an earlier JSON: ratios are printed
};

void run_kernels(const KernelOptions& options);

}  // namespace quantsparse::bench
