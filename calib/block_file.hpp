// Work files of finished blocks: the linears as the model file stores them, under the same names,
// with their reports in the metadata. An interrupted calibration goes on from them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "calib/quantize_block.hpp"

namespace quantsparse::calib {

void save_block(const std::filesystem::path& path, const std::vector<QuantizedLinear>& linears,
                const std::string& fingerprint);

/// The linears in the order they were saved in; empty when the file is missing, damaged or of
/// another run.
std::vector<QuantizedLinear> load_block(const std::filesystem::path& path,
                                        const std::string& fingerprint);

/// The quantised linears of a block as a model file holds them, without reports.
std::vector<QuantizedLinear> stored_linears(const format::Component& transformer,
                                            const format::Quantization& quantization, int block);

}  // namespace quantsparse::calib
