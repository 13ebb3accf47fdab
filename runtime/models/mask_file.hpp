// Masks of sparse attention that somebody made beforehand: of each layer and head the blocks of
// keys that each block of queries sees. docs/method.md 4.10 describes the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace quantsparse::models {

struct MaskFile {
    int block = 0;  ///< tokens of a block
    int most = 0;   ///< blocks of the fullest row
    /// Of each layer from the first one that isn't dense on, uint32 [heads, blocks, words] as
    /// kernels::choose_blocks() writes it.
    std::vector<std::vector<std::uint32_t>> choices;
};

/// What layers, heads and tokens of the transformer and the clip the file must fit.
struct MaskShape {
    int dense_layers = 0;
    int layers = 0;
    int heads = 0;
    int tokens = 0;
};

/// Throws Error(io, bad_file) in one line where the file isn't a safetensors file, fits another
/// clip or transformer, has a gap, a row without a block or a value that is neither 0 nor 1.
MaskFile read_mask_file(const std::filesystem::path& path, const MaskShape& shape);

}  // namespace quantsparse::models
