// Matrices of kernels, whose rows are padded, from and to plain lists.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/matrix.hpp"
#include "program/executor.hpp"

namespace quantsparse::selftest {

inline std::size_t padded_size(const kernels::Matrix& m) {
    return static_cast<std::size_t>(m.rows) * static_cast<std::size_t>(m.stride);
}

inline void write_matrix(program::Executor& executor, const kernels::Matrix& m,
                         const std::vector<float>& values) {
    std::vector<float> padded(padded_size(m), 0.0f);
    for (std::ptrdiff_t r = 0; r < m.rows; ++r) {
        std::copy_n(values.begin() + r * m.columns, m.columns, padded.begin() + r * m.stride);
    }
    executor.write_values(m.tensor, std::span<const float>(padded));
}

template <typename T>
std::vector<T> read_matrix(const program::Executor& executor, const kernels::Matrix& m) {
    const auto padded = executor.read_values<T>(m.tensor, padded_size(m));
    std::vector<T> values;
    for (std::ptrdiff_t r = 0; r < m.rows; ++r) {
        const auto begin = padded.begin() + r * m.stride;
        values.insert(values.end(), begin, begin + m.columns);
    }
    return values;
}

}  // namespace quantsparse::selftest
