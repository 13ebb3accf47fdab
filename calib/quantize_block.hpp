// One transformer block: its linears smoothed, rotated, clipped, quantised, packed, measured.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "calib/activations.hpp"
#include "calib/hessian.hpp"
#include "calib/options.hpp"
#include "format/model_bundle.hpp"

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
    std::string group;  ///< of linears in the block: "self_qkv"
    format::LinearBits bits;
    int out_features = 0;
    int in_features = 0;
    std::vector<std::uint32_t> codes;
    std::vector<float> scale;
    std::vector<float> bias;
    std::vector<float> channel_scale;
    std::vector<float> rotation_signs;  ///< block Hadamard; empty: none
    /// [in / b, b, b] learned rotations; only with the first linear of an input group, all of which
    /// it belongs to.
    std::vector<std::uint16_t> rotation;  ///< half precision
    int rotation_block = 0;
    float activation_clip = 1;  ///< factor on the activation's scale, as `rotation`
    /// A product beside the codes, y += x (up down)^T on raw rows: halves [rank, in], [out, rank];
    /// empty: none.
    std::vector<std::uint16_t> branch_down, branch_up;
    int branch_rank() const { return static_cast<int>(branch_down.size()) / in_features; }
    LinearReport report;
};

/// The linears of a block in the description's order; groups that stay in floating point are left
/// out. `hessians`: of the block, where the method rounds with error feedback.
std::vector<QuantizedLinear> quantize_block(const format::Component& transformer, int block,
                                            const CollectedActivations& activations,
                                            const BlockHessians& hessians,
                                            const CalibrationOptions& options);

}  // namespace quantsparse::calib
