// Tiles of the matrix-unit kernels (shaders/matrix): how many products a subgroup and a work-group
// own.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

/// Rows below which a matrix product leaves most of its tile empty and the dot tier does better.
inline constexpr int kFewestMatrixRows = 16;

struct MatrixTile {
    std::uint32_t subgroups, subgroup_columns;
    std::uint32_t tiles;  ///< a side of the square of matrices a subgroup owns: 4 or 2

    std::uint32_t rows(const MatrixShape& s) const {
        return subgroups / subgroup_columns * tiles * s.m;
    }
    std::uint32_t columns(const MatrixShape& s) const { return subgroup_columns * tiles * s.n; }
    /// Shared memory of gemm_matrix.comp. Half weights lie by rows of the inner dimension.
    std::uint64_t shared_bytes(const MatrixShape& s, bool half) const {
        const std::uint64_t staged = std::uint64_t{subgroups} * s.m * s.n * 4;
        const std::uint64_t b = half ? 32ull * (columns(s) * 2 + 16) : columns(s) * 80ull;
        return rows(s) * 80ull + b + staged;
    }
};

/// Fastest first where there are outputs enough. With products of 16x16: 128x128, 128x256, 64x128
/// and 64x64 outputs a work-group.
inline constexpr std::array<MatrixTile, 4> kMatrixTiles = {
    {{4, 2, 4}, {8, 4, 4}, {8, 4, 2}, {4, 2, 2}}};

/// The tile of a product of `m` rows and `n` columns: `limits.matrix_tile` where it fits, else the
/// first that gives the device enough work-groups, the one it was measured to prefer before others.
inline MatrixTile matrix_tile(const program::Limits& limits, const MatrixShape& shape, bool half,
                              int m, int n) {
    constexpr std::uint64_t kEnoughGroups = 160;
    const auto fits = [&](const MatrixTile& tile) {
        return tile.subgroups * limits.subgroup <= limits.max_invocations &&
               tile.shared_bytes(shape, half) <= limits.shared_bytes;
    };
    if (limits.matrix_tile >= 0 && limits.matrix_tile < static_cast<int>(kMatrixTiles.size())) {
        const MatrixTile& tile = kMatrixTiles[static_cast<std::size_t>(limits.matrix_tile)];
        if (fits(tile)) return tile;
    }
    std::vector<MatrixTile> tiles(kMatrixTiles.begin(), kMatrixTiles.end());
    if (limits.preferred_matrix_tile >= 0 &&
        limits.preferred_matrix_tile < static_cast<int>(kMatrixTiles.size())) {
        tiles.insert(tiles.begin(),
                     kMatrixTiles[static_cast<std::size_t>(limits.preferred_matrix_tile)]);
    }
    for (const MatrixTile& tile : tiles) {
        const std::uint64_t groups =
            std::uint64_t{ceil_div(static_cast<std::uint64_t>(m), tile.rows(shape))} *
            ceil_div(static_cast<std::uint64_t>(n), tile.columns(shape));
        if (fits(tile) && groups >= kEnoughGroups) return tile;
    }
    return kMatrixTiles.back();
}

}  // namespace quantsparse::kernels
