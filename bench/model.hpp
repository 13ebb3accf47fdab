// quantsparse-bench model: the memory plan of a real configuration, or its blocks measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "quantsparse/device.hpp"
#include "quantsparse/pipeline.hpp"

namespace quantsparse::bench {

struct ModelOptions {
    std::string config = "wan-1.3b";  ///< a built-in name, a config.json or a diffusers folder
    int weight_bits = 4;              ///< 4, 6, 8, or 16: floating point
    int activation_bits = 8;          ///< 8 or 6; not used with 16-bit weights
    bool rotated =
        true;  ///< channel scale and Hadamard rotation, as the calibrator's presets write
    Storage storage = Storage::fp32;
    DeviceOptions device;
    bool without_device = false;    ///< plan for the limits every Vulkan device of today has
    AttentionParameters attention;  ///< dense by default
    std::filesystem::path json;     ///< empty: none

    // --plan
    int width = 832;
    int height = 480;
    int frames = 81;
    bool guidance = false;            ///< both branches of classifier-free guidance
    std::uint64_t binding_limit = 0;  ///< bytes; 0: the device's, 128 MiB without one

    // measurement
    int tokens = 1024;
    int layers = 1;  ///< 0: all of the model's
    int repeats = 5;
    bool profile = false;
};

/// Prints what generating a clip would allocate, stage by stage. Throws Error.
void run_model_plan(const ModelOptions& options);

/// Runs blocks with pseudo-random weights and prints how long each kind of step takes. Throws
/// Error.
void run_model_block(const ModelOptions& options);

}  // namespace quantsparse::bench
