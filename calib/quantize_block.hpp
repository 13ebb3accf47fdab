// One transformer block: its ten linears smoothed, rotated, clipped, quantised, packed, measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "calib/activations.hpp"
#include "calib/options.hpp"
#include "format/checkpoint.hpp"

namespace quantsparse::calib {

struct LinearReport {
    std::string name;
    double weight_snr_db = 0;  ///< of the transformed weight
    double output_snr_db = 0;  ///< on the kept rows, activations quantised too
    float alpha = -1;          ///< smoothing exponent; negative: c = 1
    double mean_gamma = 1;
};

/// A linear as the model file stores it (format/model_file.hpp).
struct QuantizedLinear {
    std::string name;
    int out_features = 0;
    int in_features = 0;
    std::vector<std::uint32_t> codes;
    std::vector<float> scale;
    std::vector<float> bias;
    std::vector<float> channel_scale;
    std::vector<float> rotation_signs;  ///< empty: not rotated
    LinearReport report;
};

std::vector<QuantizedLinear> quantize_block(const format::Checkpoint& transformer, int block,
                                            const CollectedActivations& activations,
                                            const CalibrationOptions& options);

/// Work files of finished blocks: the same tensors under the same names, reports in the metadata.
void save_block(const std::filesystem::path& path, const std::vector<QuantizedLinear>& linears,
                int bits, const std::string& fingerprint);
/// The reports of a finished block; empty when the file is missing, damaged or of another run.
std::vector<LinearReport> load_block_reports(const std::filesystem::path& path,
                                             const std::string& fingerprint);

}  // namespace quantsparse::calib
