// From the rows of a linear's weight to the panels that matrix products read.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "format/tensor.hpp"
#include "kernels/matmul.hpp"
#include "program/executor.hpp"

namespace quantsparse::models {

/// A weight [n, k] that is read in pieces, so that a large one is never in host memory as a whole.
struct MatrixRows {
    int n = 0;
    int k = 0;
    /// Columns `first_column` on of rows `first_row` to `first_row + rows`, row after row, as many
    /// as fill `out`.
    std::function<void(int first_row, int rows, int first_column, std::span<float> out)> read;
    /// Whether pieces of a row cost what they hold; otherwise rows are read whole.
    bool columns_apart = false;
};

/// What they are made of must outlive the result.
MatrixRows rows_of(const format::TensorView& tensor, int n, int k);
MatrixRows rows_of(std::span<const float> values, int n, int k);

/// Writes the rows as columns, in the panels' element type. `groups` > 1: the rows are so many
/// groups, each padded to a multiple of 4. `piece_bytes`: about what is made of a panel at once.
/// Blocks until done.
void write_matrix(program::Executor& executor, const kernels::FloatWeight& weight,
                  const MatrixRows& rows, int groups = 1, std::int64_t piece_bytes = 16 << 20);

}  // namespace quantsparse::models
