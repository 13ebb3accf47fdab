// A device for the kernel tests, and matrices in and out of it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/matmul.hpp"
#include "kernels/quantized_matmul.hpp"
#include "program/executor.hpp"
#include "quantsparse/device.hpp"

namespace quantsparse::tests {

using kernels::Matrix;
using program::Executor;
using program::Lifetime;
using program::Program;
using program::Tensor;

/// Opens the device that VK_DRIVER_FILES leaves, with validation where the layer is installed, and
/// seeds the random numbers: QUANTSPARSE_TEST_SEED repeats a run. A validation message is a
/// failure.
class DeviceTest : public testing::Test {
  protected:
    void SetUp() override;
    void TearDown() override;

    /// The tier of tests that ask for none: QUANTSPARSE_TEST_ARITHMETIC, else portable.
    static Arithmetic usual();
    /// The device with one arithmetic tier; the same object for the whole process.
    static Device& device(Arithmetic arithmetic = usual());
    static bool has_dot();
    /// On a GPU; CPU drivers offer them for tests of other kinds.
    static bool has_matrix_units();
    /// With QUANTSPARSE_TEST_GPU_SHAPES in the environment kernels get the variants and work-groups
    /// that GPUs run, on whatever device this is.
    static program::Limits limits(Arithmetic arithmetic = usual());
    /// How far attention may be off: matrix units take its operands as halves.
    /// `spread`: of the scores, whose rounding then weighs so much more.
    static double attention_tolerance(double fp32, double spread = 1);
    /// Allocates and runs on the device of the program's own tier.
    static Executor executor_for(const Program& program);

    /// Uniform in [-1, 1).
    std::vector<float> random(std::size_t count);
    std::vector<float> random(int rows, int columns);
    int random_int(int lowest, int highest);

    std::mt19937 generator_;
};

Matrix add_kept_matrix(Program& program, const std::string& name, int rows, int columns);
/// Uploads [rows, columns]; the padding columns become zero.
void write_matrix(Executor& executor, const Matrix& matrix, std::span<const float> values);
void write_tensor(Executor& executor, Tensor tensor, std::vector<float> values);

template <typename T>
std::vector<T> read_matrix(const Executor& executor, const Matrix& m) {
    const auto padded = executor.read_values<T>(
        m.tensor, static_cast<std::size_t>(m.rows) * static_cast<std::size_t>(m.stride));
    std::vector<T> values;
    for (int r = 0; r < m.rows; ++r) {
        const auto begin = padded.begin() + static_cast<std::ptrdiff_t>(r) * m.stride;
        values.insert(values.end(), begin, begin + m.columns);
    }
    return values;
}

/// Whether the columns after the last one hold zeros, as the other kernels rely on.
bool padding_is_zero(const Executor& executor, const Matrix& matrix);

/// Uploads weight [n, k] and bias [n] the way models/weights.cpp does.
void write_weight(Executor& executor, const kernels::FloatWeight& weight,
                  std::span<const float> values, std::span<const float> bias);

/// What storing as halves does to values.
std::vector<float> through_half(std::vector<float> values);

/// Every element within `tolerance[i]` (or tolerance[0]) of the reference; NaN never is.
void expect_close(std::span<const float> actual, std::span<const double> expected,
                  std::span<const double> tolerance, const std::string& what);
void expect_close(std::span<const float> actual, std::span<const double> expected, double tolerance,
                  const std::string& what);

inline std::size_t at(int row, int column, int columns) {
    return static_cast<std::size_t>(row) * static_cast<std::size_t>(columns) +
           static_cast<std::size_t>(column);
}

}  // namespace quantsparse::tests
