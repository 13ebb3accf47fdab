#include "attention/curve_order.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <numeric>

namespace quantsparse::attention {
namespace {

/// Along one of the three axes: the others are 0.
using Vector = std::array<int, 3>;

Vector operator+(Vector a, const Vector& b) {
    for (std::size_t i = 0; i < 3; ++i) a[i] += b[i];
    return a;
}
Vector operator-(Vector a, const Vector& b) {
    for (std::size_t i = 0; i < 3; ++i) a[i] -= b[i];
    return a;
}
Vector operator-(const Vector& a) {
    return Vector{} - a;
}
int length_of(const Vector& a) {
    return std::abs(a[0] + a[1] + a[2]);
}
Vector unit_of(Vector a) {
    for (int& x : a) x = (x > 0) - (x < 0);
    return a;
}
/// Half of it, of an even length if it isn't the half of two: then the parts' ends meet.
Vector half_of(const Vector& a) {
    Vector half = a;
    for (int& x : half) x /= 2;
    return length_of(half) % 2 && length_of(a) > 2 ? half + unit_of(a) : half;
}

/// Cells of a box in the order of the curve (the rules of the generalised Hilbert curve by Jakub
/// Cerveny): a box is cut in two, three or five by its proportions, each part is turned so that it
/// begins beside the end of the one before.
class Curve {
  public:
    explicit Curve(std::vector<Vector>& cells) : cells_(cells) {}

    /// The box of edges a, b, c at `start`; the curve ends at the far end of a.
    void fill(const Vector& start, const Vector& a, const Vector& b, const Vector& c) {
        const int width = length_of(a), height = length_of(b), depth = length_of(c);
        if (height == 1 && depth == 1) return line(start, a);
        if (width == 1 && depth == 1) return line(start, b);
        if (width == 1 && height == 1) return line(start, c);
        const Vector a1 = half_of(a), b1 = half_of(b), c1 = half_of(c);
        const Vector a2 = a - a1, b2 = b - b1, c2 = c - c1;
        const Vector end = start + (a - unit_of(a));
        if (2 * width > 3 * height && 2 * width > 3 * depth) {
            fill(start, a1, b, c);
            fill(start + a1, a2, b, c);
        } else if (3 * height > 4 * depth) {
            fill(start, b1, c, a1);
            fill(start + b1, a, b2, c);
            fill(end + (b1 - unit_of(b)), -b1, c, -a2);
        } else if (3 * depth > 4 * height) {
            fill(start, c1, a1, b);
            fill(start + c1, a, b, c2);
            fill(end + (c1 - unit_of(c)), -c1, -a2, b);
        } else {
            const Vector far = c - unit_of(c);
            fill(start, b1, c1, a1);
            fill(start + b1, c, a1, b2);
            fill(start + (b1 - unit_of(b)) + far, a, -b1, -c2);
            fill(end + b1 + far, -c, -a2, b2);
            fill(end + (b1 - unit_of(b)), -b1, c1, -a2);
        }
    }

  private:
    void line(Vector cell, const Vector& along) {
        for (int i = 0; i < length_of(along); ++i, cell = cell + unit_of(along)) {
            cells_.push_back(cell);
        }
    }

    std::vector<Vector>& cells_;
};

/// Cells (frame, row, column), the curve's ends at those of the longest edge.
std::vector<Vector> curve_of(const TiledGrid& grid) {
    std::vector<Vector> cells;
    const Vector frames{grid.frames, 0, 0}, rows{0, grid.rows, 0}, columns{0, 0, grid.columns};
    Curve curve(cells);
    if (grid.frames * grid.rows * grid.columns == 0) return cells;
    if (grid.columns >= grid.rows && grid.columns >= grid.frames) {
        curve.fill({}, columns, rows, frames);
    } else if (grid.rows >= grid.frames) {
        curve.fill({}, rows, columns, frames);
    } else {
        curve.fill({}, frames, columns, rows);
    }
    return cells;
}

int token_of(const TiledGrid& grid, const Vector& cell) {
    return grid.text_in_front + (cell[0] * grid.rows + cell[1]) * grid.columns + cell[2];
}

}  // namespace

std::vector<std::uint32_t> curve_positions(const TiledGrid& grid) {
    const int cells = grid.frames * grid.rows * grid.columns;
    std::vector<std::uint32_t> positions(
        static_cast<std::size_t>(grid.text_in_front + cells + grid.text_behind));
    std::iota(positions.begin(), positions.end(), 0u);
    auto next = static_cast<std::uint32_t>(grid.text_in_front);
    for (const Vector& cell : curve_of(grid)) {
        positions[static_cast<std::size_t>(token_of(grid, cell))] = next++;
    }
    return positions;
}

std::vector<std::uint32_t> touching_blocks(const TiledGrid& grid,
                                           const std::vector<std::uint32_t>& positions, int block) {
    const int blocks = (static_cast<int>(positions.size()) + block - 1) / block;
    const int words = (blocks + 31) / 32;
    std::vector<std::uint32_t> bits(static_cast<std::size_t>(blocks * words), 0);
    const auto mark = [&](std::uint32_t row, std::uint32_t column) {
        bits[row * static_cast<std::uint32_t>(words) + column / 32] |= 1u << column % 32;
    };
    const auto block_of = [&](const Vector& cell) {
        return positions[static_cast<std::size_t>(token_of(grid, cell))] /
               static_cast<std::uint32_t>(block);
    };
    for (int b = 0; b < blocks; ++b)
        mark(static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b));
    const Vector size{grid.frames, grid.rows, grid.columns};
    const auto inside = [&](const Vector& cell) {
        for (std::size_t i = 0; i < 3; ++i) {
            if (cell[i] < 0 || cell[i] >= size[i]) return false;
        }
        return true;
    };
    for (int cell = 0; cell < grid.frames * grid.rows * grid.columns; ++cell) {
        const Vector at{cell / grid.columns / grid.rows, cell / grid.columns % grid.rows,
                        cell % grid.columns};
        for (int n = 0; n < 27; ++n) {
            const Vector other = at + Vector{n / 9 - 1, n / 3 % 3 - 1, n % 3 - 1};
            if (inside(other)) mark(block_of(at), block_of(other));
        }
    }
    return bits;
}

int most_in_a_row(const std::vector<std::uint32_t>& bits, int words) {
    int most = 0;
    for (std::size_t begin = 0; begin < bits.size(); begin += static_cast<std::size_t>(words)) {
        int count = 0;
        for (int w = 0; w < words; ++w) {
            count += std::popcount(bits[begin + static_cast<std::size_t>(w)]);
        }
        most = std::max(most, count);
    }
    return most;
}

}  // namespace quantsparse::attention
