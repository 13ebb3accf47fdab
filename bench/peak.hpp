// quantsparse-bench peak: what the device's arithmetic and memory do at most, by micro-kernels.
// Other figures are given as a share of it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quantsparse/device.hpp"

namespace quantsparse::bench {

struct PeakFigure {
    std::string name;
    double rate = 0;  ///< operations or bytes a second, at the shortest time
    double median_rate = 0;
    std::string unit;
};

struct Peaks {
    std::vector<PeakFigure> figures;
    double best_operations = 0;  ///< a second, over all arithmetic
};

Peaks measure_peaks(Device& device, int repeats);
void run_peak(const DeviceOptions& device_options, int repeats, const std::filesystem::path& json);

}  // namespace quantsparse::bench
