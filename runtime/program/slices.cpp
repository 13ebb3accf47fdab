#include "program/slices.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::program {

std::optional<Slice> take_slice(const Operation& operation, double seconds, double budget,
                                bool fresh, Cursor& cursor) {
    const auto pieces_along = [&](std::size_t axis) {
        return operation.cuts[axis] ? operation.groups[axis] : 1;
    };
    std::array<std::size_t, 3> axes = {0, 1, 2};
    std::stable_sort(axes.begin(), axes.end(), [&](std::size_t x, std::size_t y) {
        return pieces_along(x) > pieces_along(y);
    });
    const std::uint32_t slabs = pieces_along(axes[0]), cells = pieces_along(axes[1]);
    // As many at a time as fit, and about as many each time.
    const auto evenly = [budget](std::uint32_t rest, double each) {
        const double most = std::clamp(std::floor(budget / each), 1.0, static_cast<double>(rest));
        const double pieces = std::ceil(rest / most);
        return static_cast<std::uint32_t>(std::ceil(rest / pieces));
    };
    const double slab = seconds / slabs;
    const std::uint32_t rest = slabs - cursor.slab;
    if (!fresh && (cursor.cell > 0 || rest * slab > budget)) return std::nullopt;
    Slice slice;
    slice.count = operation.groups;
    const auto cut = [&](std::size_t axis, std::uint32_t first, std::uint32_t count) {
        if (!operation.cuts[axis]) return;
        slice.first[axis] = first;
        slice.count[axis] = count;
    };
    if (cursor.cell == 0 && (slab <= budget || cells == 1)) {
        const std::uint32_t count = evenly(rest, slab);
        cut(axes[0], cursor.slab, count);
        slice.share = static_cast<double>(count) / slabs;
        cursor.slab += count;
    } else {
        const std::uint32_t count = evenly(cells - cursor.cell, slab / cells);
        cut(axes[0], cursor.slab, 1);
        cut(axes[1], cursor.cell, count);
        slice.share = static_cast<double>(count) / cells / slabs;
        cursor.cell += count;
        if (cursor.cell == cells) cursor = {cursor.operation, cursor.slab + 1, 0};
    }
    if (cursor.slab == slabs) cursor = {cursor.operation + 1, 0, 0};
    return slice;
}

}  // namespace quantsparse::program
