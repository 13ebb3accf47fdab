// The calibration as the model file records it.
#pragma once

#include <string>

#include "calib/calibrate.hpp"
#include "calib/collect.hpp"

namespace quantsparse::calib {

/// JSON for `quantization` in the model file's header (docs/model-format.md).
std::string quantization_record(const CalibrationOptions& options, const format::Network& network,
                                const ClipSize& size, const CalibrationSummary& summary,
                                double seconds);

}  // namespace quantsparse::calib
