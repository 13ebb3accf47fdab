// Row-major fp32 matrices as the kernels see them, and how they are cut to a device's binding
// limit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "program/program.hpp"

namespace quantsparse::kernels {

using program::Program;
using program::Tensor;

constexpr int round_up(int value, int multiple) {
    return (value + multiple - 1) / multiple * multiple;
}
constexpr std::uint32_t ceil_div(std::uint64_t value, std::uint64_t divisor) {
    return static_cast<std::uint32_t>((value + divisor - 1) / divisor);
}

constexpr std::uint32_t u32(int value) {
    return static_cast<std::uint32_t>(value);
}

/// fp32 [rows, columns] with rows of `stride` floats, a multiple of 4; the columns in between are
/// zero.
struct Matrix {
    Tensor tensor;
    int rows = 0;
    int columns = 0;
    int stride = 0;
    int first_row = 0;  ///< where this matrix begins inside the tensor, a multiple of 64

    std::uint64_t row_bytes() const { return static_cast<std::uint64_t>(stride) * 4; }
    std::uint64_t bytes() const { return row_bytes() * static_cast<std::uint64_t>(rows); }
    /// Rows first .. first+count-1 as a matrix of their own; `first` is a multiple of 64.
    Matrix slice(int first, int count) const {
        return {tensor, count, columns, stride, first_row + first};
    }
};

inline Matrix add_matrix(Program& program, const std::string& name, int rows, int columns,
                         program::Lifetime lifetime = program::Lifetime::transient) {
    Matrix matrix{{}, rows, columns, round_up(columns, 4), 0};
    matrix.tensor = program.add(name, matrix.bytes(), lifetime);
    return matrix;
}

/// Binds rows first .. first+count-1.
inline program::Binding read_rows(const Matrix& m, int first, int count) {
    return program::read(m.tensor, m.row_bytes() * static_cast<std::uint64_t>(m.first_row + first),
                         m.row_bytes() * static_cast<std::uint64_t>(count));
}
inline program::Binding write_rows(const Matrix& m, int first, int count) {
    return program::write(m.tensor, m.row_bytes() * static_cast<std::uint64_t>(m.first_row + first),
                          m.row_bytes() * static_cast<std::uint64_t>(count));
}

/// How many rows of `row_bytes` one dispatch may bind: a multiple of 64, so that chunks begin
/// aligned.
inline int rows_per_dispatch(const Program& program, std::uint64_t row_bytes, int rows) {
    const std::uint64_t fit =
        program.limits().max_binding_bytes / std::max<std::uint64_t>(row_bytes, 1);
    if (fit >= static_cast<std::uint64_t>(rows)) return rows;
    return std::max(64, static_cast<int>(std::min<std::uint64_t>(fit, 1u << 30)) / 64 * 64);
}

/// The same where each row is a work-group.
inline constexpr int kMaxRows = 65535 / 64 * 64;

/// How many of so many heads one dispatch may bind.
inline int heads_per_dispatch(const Program& program, std::uint64_t head_bytes, int heads) {
    return static_cast<int>(std::clamp<std::uint64_t>(
        program.limits().max_binding_bytes / head_bytes, 1, static_cast<std::uint64_t>(heads)));
}

/// Invocations of a work-group that reduces one row: a power of two.
inline std::uint32_t row_lanes(const Program& program) {
    return program.limits().runs_on_cpu ? 16u : std::min(128u, program.limits().max_invocations);
}

}  // namespace quantsparse::kernels
