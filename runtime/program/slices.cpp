#include "program/slices.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::program {

std::optional<Slice> take_slice(const Operation& operation, double seconds, double budget,
                                bool fresh, Cursor& cursor) {
    std::array<std::size_t, 3> axes = {0, 1, 2};
    std::stable_sort(axes.begin(), axes.end(), [&](std::size_t x, std::size_t y) {
        return operation.groups[x] > operation.groups[y];
    });
    const std::uint32_t slabs = operation.groups[axes[0]], cells = operation.groups[axes[1]];
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
    slice.first[axes[0]] = cursor.slab;
    if (cursor.cell == 0 && (slab <= budget || cells == 1)) {
        const std::uint32_t count = evenly(rest, slab);
        slice.count[axes[0]] = count;
        slice.share = static_cast<double>(count) / slabs;
        cursor.slab += count;
    } else {
        const std::uint32_t count = evenly(cells - cursor.cell, slab / cells);
        slice.count[axes[0]] = 1;
        slice.first[axes[1]] = cursor.cell;
        slice.count[axes[1]] = count;
        slice.share = static_cast<double>(count) / cells / slabs;
        cursor.cell += count;
        if (cursor.cell == cells) cursor = {cursor.operation, cursor.slab + 1, 0};
    }
    if (cursor.slab == slabs) cursor = {cursor.operation + 1, 0, 0};
    return slice;
}

}  // namespace quantsparse::program
