// What a calibration is asked to do. The command line fills it, tests do too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "calib/method.hpp"
#include "format/model_bundle.hpp"
#include "quantsparse/adapter.hpp"

namespace quantsparse::calib {

struct CalibrationOptions {
    /// A folder in any layout that holds weights in floating point, or single files by role.
    ModelFiles model;
    std::filesystem::path output;          ///< the model file to write
    std::filesystem::path work_directory;  ///< empty: "<output>.partial"
    std::vector<Adapter> adapters;         ///< that become part of the weights first
    std::string preset = "fast";
    int weight_bits = 4;      ///< 3, 4, 6, 8, or 16: nothing is quantised
    int activation_bits = 8;  ///< 8, 6, or 16 together with 16-bit weights
    /// Other bits for groups of linears: by "ffn_2", or "blocks.3.ffn_2" for one block.
    std::map<std::string, format::LinearBits> group_bits;
    MethodOverrides method;  ///< changes to the preset
    LearningOptions learning;
    /// Presets that learn: inputs of the model (prompt, step, branch) that are kept, 0: 20. The
    /// others: clips generated, 0: 4.
    int samples = 0;
    int steps = 10;  ///< denoising steps of each clip
    std::uint64_t seed = 0;
    int width = 0;  ///< of the calibration clips; 0: chosen from the native size
    int height = 0;
    int frames = 0;
    double guidance = 0;               ///< of the calibration clips; 0: the model's default
    int kept_rows = 512;               ///< tokens kept per group of linears
    int threads = 0;                   ///< 0: all cores
    std::vector<std::string> prompts;  ///< empty: the built-in ones
};

inline Method method_of(const CalibrationOptions& options) {
    return method_of(options.preset, options.method, options.activation_bits);
}
/// The largest block of learned rotations.
inline int learned_rotation_block(const CalibrationOptions& options) {
    const int given = options.learning.rotation_block;
    return given > 0 ? given : method_of(options).rotation_block;
}
inline BlockInputs block_inputs(const CalibrationOptions& options) {
    const auto method = method_of(options);
    const auto usual = method.learns ? BlockInputs::quantized : BlockInputs::fp;
    return options.learning.inputs.value_or(method.inputs.value_or(usual));
}
inline format::Quantization quantization_of(const CalibrationOptions& options) {
    return {{options.weight_bits, options.activation_bits}, options.group_bits, {}};
}
/// Clips that are generated: the samples, or a quarter of them where samples are inputs.
int clip_count(const CalibrationOptions& options);
/// Inputs kept for learning; 0 where nothing is learned.
int training_count(const CalibrationOptions& options);

}  // namespace quantsparse::calib
