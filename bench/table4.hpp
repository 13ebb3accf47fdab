// quantsparse-bench table4: what a whole clip of a real model takes on this device, as in the
// paper's deployment table: storage, memory and time of the transformer in floating point, with
// quantised weights, and with sparse attention and SSAR.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quantsparse/device.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::bench {

struct Table4Options {
    std::string config = "wan-1.3b";
    Storage storage = Storage::half;  ///< of the weights that are not quantised
    int tokens = 2048;                ///< of the largest measured block
    int clip_tokens = 32760;          ///< 832x480, 81 frames
    int steps = 50;
    std::vector<double> densities = {0.25, 0.15};
    int repeats = 5;
    DeviceOptions device;
    std::filesystem::path json;  ///< empty: none
    std::filesystem::path html;  ///< empty: none
};

/// Measures one block in every configuration and prints the table. Throws Error.
void run_table4(const Table4Options& options);

}  // namespace quantsparse::bench
