#include "attention/band.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::attention {

std::uint64_t count_pairs(int tokens, int band, int sink) {
    std::uint64_t pairs = 0;
    for (int i = 0; i < tokens; ++i) {
        const int first = std::max(0, i - band), last = std::min(tokens - 1, i + band);
        // The band's keys, then the sink's that lie before it.
        pairs += static_cast<std::uint64_t>(last - first + 1 + std::clamp(sink, 0, first));
        pairs += static_cast<std::uint64_t>(std::max(0, std::min(sink, tokens) - 1 - last));
    }
    return pairs;
}

int band_width(int tokens, int sink, double density, MaskMode mode) {
    if (mode == MaskMode::svg) {
        constexpr int kStep = 128;
        const double width = tokens * (1.0 - std::sqrt(1.0 - std::min(density, 1.0)));
        return std::min(tokens, static_cast<int>(std::ceil(width / kStep)) * kStep);
    }
    const double wanted = density * tokens * static_cast<double>(tokens);
    const auto pairs = [&](int band) {
        return static_cast<double>(count_pairs(tokens, band, sink));
    };
    int low = 0, high = tokens - 1;  // the smallest band that reaches the density
    while (low < high) {
        const int middle = (low + high) / 2;
        if (pairs(middle) < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low > 0 && wanted - pairs(low - 1) < pairs(low) - wanted) return low - 1;
    return low;
}

}  // namespace quantsparse::attention
