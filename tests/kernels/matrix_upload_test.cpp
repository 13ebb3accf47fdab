// Weights on their way into the panels of matrix products: read back, each element stands where it
// must.
#include "models/matrix_upload.hpp"

#include <cstring>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

class MatrixUploadTest : public DeviceTest {
  protected:
    /// What write_matrix() makes of `rows`, transposed back: [padded n][k].
    std::vector<float> written(const models::MatrixRows& rows, int groups, bool half,
                               std::int64_t piece_bytes) {
        const int padded = kernels::round_up(rows.n / groups, 4) * groups;
        Program program(limits());
        const auto weight = kernels::add_float_weight(program, "w", padded, rows.k, half, false);
        Executor executor = executor_for(program);
        models::write_matrix(executor, weight, rows, groups, piece_bytes);
        std::vector<float> result(at(padded, 0, rows.k));
        for (const auto& panel : weight.panels) {
            const int columns = kernels::round_up(panel.columns, 4);
            const std::size_t size = half ? 2 : 4;
            std::vector<std::byte> bytes(at(rows.k, 0, columns) * size);
            executor.read(panel.tensor, bytes);
            for (int i = 0; i < rows.k; ++i) {
                for (int c = 0; c < panel.columns; ++c) {
                    const std::byte* from = bytes.data() + at(i, c, columns) * size;
                    float& to = result[at(panel.first_column + c, i, rows.k)];
                    if (half) {
                        std::uint16_t bits = 0;
                        std::memcpy(&bits, from, 2);
                        to = format::float_from_half(bits);
                    } else {
                        std::memcpy(&to, from, 4);
                    }
                }
            }
        }
        return result;
    }
};

/// Small whole numbers: exact in every element type here.
std::vector<float> numbered(int n, int k) {
    std::vector<float> values;
    for (int i = 0; i < n * k; ++i) values.push_back(static_cast<float>(i % 2039));
    return values;
}

TEST_F(MatrixUploadTest, PiecesJoinToTheWholeMatrix) {
    for (const auto& [n, k] : {std::pair{12, 256}, {17, 700}, {70, 1300}}) {
        const auto values = numbered(n, k);
        const models::MatrixRows rows = models::rows_of(std::span(values), n, k);
        for (const bool half : {false, true}) {
            for (const std::int64_t piece_bytes : {1, 40'000, 16 << 20}) {
                auto found = written(rows, 1, half, piece_bytes);
                found.resize(values.size());  // padding follows
                EXPECT_EQ(found, values) << n << "x" << k << " pieces of " << piece_bytes;
            }
        }
    }
}

TEST_F(MatrixUploadTest, GroupsArePaddedOneByOne) {
    const int n = 3 * 6, k = 520;
    const auto values = numbered(n, k);
    const auto found = written(models::rows_of(std::span(values), n, k), 3, false, 1);
    for (int row = 0; row < 3 * 8; ++row) {
        for (int i = 0; i < k; ++i) {
            const float expected = row % 8 < 6 ? values[at(row / 8 * 6 + row % 8, i, k)] : 0.0f;
            ASSERT_EQ(found[at(row, i, k)], expected) << row << ", " << i;
        }
    }
}

/// Counts on from `first`, as numbered() does.
class Numbers final : public format::ComputedTensor {
  public:
    void read(std::int64_t first, std::span<std::byte> out) const override {
        for (std::size_t i = 0; i < out.size() / 4; ++i) {
            const auto value = static_cast<float>((first + static_cast<std::int64_t>(i)) % 2039);
            std::memcpy(out.data() + i * 4, &value, 4);
        }
    }
};

TEST_F(MatrixUploadTest, TensorsOfFilesAndComputedOnesGiveTheSame) {
    const int n = 20, k = 600;
    const auto values = numbered(n, k);
    std::vector<std::uint16_t> halves;
    for (const float value : values) halves.push_back(format::half_from_float(value));
    const format::TensorView stored{
        "w", format::DType::f16, {n, k}, std::as_bytes(std::span(halves))};
    const format::TensorView computed{
        "w", format::DType::f32, {n, k}, {}, std::make_shared<Numbers>()};
    EXPECT_EQ(written(models::rows_of(stored, n, k), 1, false, 1), values);
    EXPECT_EQ(written(models::rows_of(computed, n, k), 1, true, 1), values);
}

}  // namespace
}  // namespace quantsparse::tests
