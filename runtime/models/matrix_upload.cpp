#include "models/matrix_upload.hpp"

#include <algorithm>
#include <type_traits>

namespace quantsparse::models {
namespace {

using kernels::round_up;

constexpr std::int64_t kStripElements = 1 << 20;  // of rows, as they are read
constexpr int kElementBlock = 256;                // no format shares a scale by more

std::size_t index(std::int64_t i) {
    return static_cast<std::size_t>(i);
}

template <typename T>
T element(float value) {
    if constexpr (std::is_same_v<T, float>) {
        return value;
    } else {
        return format::half_from_float(value);
    }
}

/// A run of a panel's columns that lie in one group, so that their rows follow each other.
struct Strip {
    int first_row = 0;
    int rows = 0;
    int first_column = 0;  ///< in the panel
};

std::vector<Strip> strips_of(const kernels::FloatWeight::Panel& panel, int length, int padded,
                             int longest) {
    std::vector<Strip> strips;
    for (int c = 0; c < panel.columns;) {
        const int column = panel.first_column + c, in_group = column % padded;
        if (in_group >= length) {  // padding
            ++c;
            continue;
        }
        const int rows = std::min({length - in_group, panel.columns - c, longest});
        strips.push_back({column / padded * length + in_group, rows, c});
        c += rows;
    }
    return strips;
}

template <typename T>
void write_panel(program::Executor& executor, const kernels::FloatWeight::Panel& panel,
                 const MatrixRows& rows, int length, int padded, std::int64_t piece_bytes) {
    const std::int64_t columns = round_up(panel.columns, 4);
    const std::int64_t row_bytes = columns * std::int64_t{sizeof(T)};
    int piece = rows.k;
    if (rows.columns_apart) {
        const std::int64_t blocks =
            std::max<std::int64_t>(piece_bytes / row_bytes / kElementBlock, 1);
        piece = static_cast<int>(std::min<std::int64_t>(blocks * kElementBlock, rows.k));
    }
    const auto longest =
        static_cast<int>(std::clamp<std::int64_t>(kStripElements / piece, 16, 1 << 16));
    const auto strips = strips_of(panel, length, padded, longest);
    std::vector<float> values;
    std::vector<T> transposed;
    for (int first = 0; first < rows.k; first += piece) {
        const int width = std::min(piece, rows.k - first);
        transposed.assign(index(width * columns), T{});
        for (const Strip& strip : strips) {
            values.resize(index(std::int64_t{strip.rows} * width));
            rows.read(strip.first_row, strip.rows, first, values);
            // Sixteen rows at a time: their elements are neighbours in the panel.
            for (int begin = 0; begin < strip.rows; begin += 16) {
                const int end = std::min(begin + 16, strip.rows);
                for (int i = 0; i < width; ++i) {
                    T* out = transposed.data() + i * columns + strip.first_column;
                    for (int r = begin; r < end; ++r) {
                        out[r] = element<T>(values[index(std::int64_t{r} * width + i)]);
                    }
                }
            }
        }
        executor.write(panel.tensor, std::as_bytes(std::span<const T>(transposed)),
                       static_cast<std::uint64_t>(first * row_bytes));
    }
}

}  // namespace

MatrixRows rows_of(const format::TensorView& tensor, int n, int k) {
    // What is computed may cost as much for a piece of a row as for the row.
    const bool apart = !tensor.computed;
    const auto read = [&tensor, k](int first_row, int rows, int first_column,
                                   std::span<float> out) {
        const std::int64_t begin = std::int64_t{first_row} * k + first_column;
        const auto width = std::ssize(out) / rows;
        if (width == k) return format::to_float(tensor.slice(begin, std::ssize(out)), out);
        for (int row = 0; row < rows; ++row) {
            format::to_float(tensor.slice(begin + std::int64_t{row} * k, width),
                             out.subspan(static_cast<std::size_t>(row * width),
                                         static_cast<std::size_t>(width)));
        }
    };
    return {n, k, read, apart};
}

MatrixRows rows_of(std::span<const float> values, int n, int k) {
    const auto read = [values, k](int first_row, int rows, int first_column, std::span<float> out) {
        const std::size_t width = out.size() / index(rows);
        for (int row = 0; row < rows; ++row) {
            const auto from =
                values.subspan(index((std::int64_t{first_row} + row) * k + first_column), width);
            std::copy(from.begin(), from.end(),
                      out.begin() + std::ptrdiff_t{row} * std::ssize(from));
        }
    };
    return {n, k, read, true};
}

void write_matrix(program::Executor& executor, const kernels::FloatWeight& weight,
                  const MatrixRows& rows, int groups, std::int64_t piece_bytes) {
    const int length = rows.n / groups;
    const int padded = groups == 1 ? rows.n : round_up(length, 4);
    for (const auto& panel : weight.panels) {
        if (weight.half) {
            write_panel<std::uint16_t>(executor, panel, rows, length, padded, piece_bytes);
        } else {
            write_panel<float>(executor, panel, rows, length, padded, piece_bytes);
        }
    }
}

}  // namespace quantsparse::models
