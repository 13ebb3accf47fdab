// The last stage: the quantised model file, streamed tensor by tensor from the source model and the
// work files of the blocks.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"

namespace quantsparse::calib {

/// Writes `output` with all networks and tokenizers. Matrices that are not quantised keep
/// (or get) 16 bits, everything else becomes fp32. `block_files` are the work files of all blocks,
/// empty for a plain 16-bit file. Leaves nothing behind when it throws.
void write_model(const format::ModelBundle& model, const std::filesystem::path& output,
                 const std::vector<std::filesystem::path>& block_files,
                 const std::string& quantization_record, bool show_progress);

}  // namespace quantsparse::calib
