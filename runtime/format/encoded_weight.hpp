// One weight that is kept in 8 or 4 bits, and what is computed from it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/checkpoint.hpp"
#include "format/tensor.hpp"

namespace quantsparse::format {

inline constexpr int kW4A8Group = 16;  ///< columns of a relative scale where a file doesn't say

/// A linear's weight with what is stored beside it. Codes times scale, in the rotated basis if
/// there is one.
struct EncodedWeight {
    std::string name;  ///< of the linear
    TensorView weight;
    int rows = 0;
    int columns = 0;
    int rotation = 0;  ///< columns of a ConvRot group; 0: none
    // By one scale, or one per row, per group of columns, per tile.
    TensorView scale;
    int scale_columns = 1;                ///< scales of a row of tiles
    int tile_rows = 1, tile_columns = 1;  ///< of the weight that share one
    // W4A8.
    bool four_bits = false;
    int group = kW4A8Group;
    TensorView relative;             ///< [rows, columns / group]
    std::array<float, 16> levels{};  ///< of the 4-bit indices
    std::vector<float> correction;   ///< [columns / group, rows], or empty

    bool integers() const { return weight.dtype == DType::i8 || weight.dtype == DType::u8; }
    /// Signed bytes times one scale per row: what the integer products take.
    bool native() const { return integers() && tile_columns == columns && correction.empty(); }
    void codes(int row, std::span<std::int8_t> out) const;
    void values(int row, std::span<float> out) const;
};

/// Puts the weight as fp32 in the place of the encoded one, and codes, scales and signs beside it
/// where it is native.
void put_decoded(Checkpoint& checkpoint, const std::shared_ptr<const EncodedWeight>& encoded);

}  // namespace quantsparse::format
