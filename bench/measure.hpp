// Times a Program's operations on a device: correct use of timestamps, minimum and median of
// repeats.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "program/executor.hpp"
#include "quantsparse/device.hpp"
#include "report.hpp"

namespace quantsparse::bench {

struct Timing {
    double min_ms = 0;
    double median_ms = 0;
    int repeats = 0;
    std::vector<double> runs_ms;          ///< in the order in which they ran
    std::map<std::string, double> parts;  ///< shortest time in ms of the operations of each name
};

/// Runs phase 0 of `executor` once to warm up (pipelines compile, memory is touched), then
/// `repeats` times, and times the operations called `operation` (empty: all). By the device's
/// timestamps, which the executor must have been made to collect.
Timing time_phase(program::Executor& executor, int repeats, const std::string& operation = {});

/// The same for several programs whose runs take turns, so that a machine that is slow for a while
/// is slow for each of them: entry i of `runs_ms` compares.
std::vector<Timing> time_in_turns(const std::vector<program::Executor*>& executors, int repeats,
                                  const std::string& operation = {});

/// Fills a constant or persistent tensor with numbers in [-1, 1), the same on every machine.
void fill_with_noise(program::Executor& executor, program::Tensor tensor);

/// {"device": ..., "driver": ..., "arithmetic": ...}
Json device_json(const Device& device);
Json timing_json(const Timing& timing);

}  // namespace quantsparse::bench
