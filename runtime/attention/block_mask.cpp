#include "attention/block_mask.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::attention {

using kernels::BlockList;

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

int band_width(int frames, int tokens_per_frame, double density, MaskMode mode) {
    const int tokens = frames * tokens_per_frame;
    if (mode == MaskMode::svg) {
        constexpr int kStep = 128;
        const double width = tokens * (1.0 - std::sqrt(1.0 - std::min(density, 1.0)));
        return std::min(tokens, static_cast<int>(std::ceil(width / kStep)) * kStep);
    }
    const double wanted = density * tokens * static_cast<double>(tokens);
    const auto pairs = [&](int band) {
        return static_cast<double>(count_pairs(tokens, band, tokens_per_frame));
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

BlockMask make_block_mask(int tokens, int band, int sink, int block) {
    BlockMask mask{tokens, block, band, std::min(sink, tokens), 0, 0, {0}, {}};
    const int blocks = (tokens + block - 1) / block;
    std::uint64_t listed = 0;
    for (int b = 0; b < blocks; ++b) {
        const int q0 = b * block, q1 = std::min(q0 + block, tokens) - 1;
        for (int column = 0; column < blocks; ++column) {
            const int k0 = column * block, k1 = std::min(k0 + block, tokens) - 1;
            const bool banded = k0 <= q1 + band && k1 >= q0 - band;
            const bool sunk = k0 < mask.sink;
            if (!banded && !sunk) continue;
            const bool whole = k1 < mask.sink || (q1 - k0 <= band && k1 - q0 <= band);
            mask.columns.push_back(static_cast<std::uint32_t>(column) |
                                   (whole ? 0u : BlockList::kPartial));
            listed +=
                static_cast<std::uint64_t>(q1 - q0 + 1) * static_cast<std::uint64_t>(k1 - k0 + 1);
        }
        mask.row_ptr.push_back(static_cast<std::uint32_t>(mask.columns.size()));
    }
    const double all = static_cast<double>(tokens) * tokens;
    mask.token_density = static_cast<double>(count_pairs(tokens, band, mask.sink)) / all;
    mask.block_density = static_cast<double>(listed) / all;
    return mask;
}

kernels::BlockList declare_block_list(program::Program& program, const std::string& name,
                                      const BlockMask& mask) {
    using program::Lifetime;
    BlockList list;
    list.row_ptr = program.add(name + ".row_ptr", mask.row_ptr.size() * 4, Lifetime::persistent);
    list.columns = program.add(name + ".columns", mask.columns.size() * 4, Lifetime::persistent);
    list.predicate = program.add(name + ".predicate", 16, Lifetime::persistent);
    list.block = mask.block;
    list.query_blocks = static_cast<int>(mask.row_ptr.size()) - 1;
    list.density = mask.block_density;
    return list;
}

}  // namespace quantsparse::attention
