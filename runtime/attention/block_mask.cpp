#include "attention/block_mask.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "quantsparse/error.hpp"

namespace quantsparse::attention {

using kernels::BlockList;

Sight band_sight(int tokens, int band, int sink) {
    Sight sight;
    sight.prefix = std::min(sink, tokens);
    sight.suffix = tokens;
    for (int i = 0; i < tokens; ++i) {
        sight.ranges.push_back({std::max(0, i - band), std::min(tokens, i + band + 1)});
    }
    return sight;
}

namespace {

/// The smallest range that holds both; an empty one holds nothing.
KeyRange joined(KeyRange a, KeyRange b) {
    if (a.begin >= a.end) return b;
    if (b.begin >= b.end) return a;
    return {std::min(a.begin, b.begin), std::max(a.end, b.end)};
}

KeyRange common(KeyRange a, KeyRange b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

/// The smallest range of `keys` outside of which none of the queries `q0` .. `q1` - 1 sees any.
KeyRange seen_range(const Sight& sight, int q0, int q1, KeyRange keys) {
    KeyRange seen = joined(common(keys, {0, sight.prefix}), common(keys, {sight.suffix, keys.end}));
    for (int q = q0; q < q1; ++q) {
        seen = joined(seen, common(keys, sight.ranges[static_cast<std::size_t>(q)]));
    }
    return seen;
}

/// The same of the keys that they do not see.
KeyRange unseen_range(const Sight& sight, int q0, int q1, KeyRange keys) {
    const KeyRange inner = common(keys, {sight.prefix, sight.suffix});
    KeyRange unseen{keys.end, keys.begin};
    for (int q = q0; q < q1; ++q) {
        const KeyRange& row = sight.ranges[static_cast<std::size_t>(q)];
        if (row.begin >= row.end) return inner;
        unseen = joined(unseen, common(inner, {0, row.begin}));
        unseen = joined(unseen, common(inner, {row.end, keys.end}));
    }
    return unseen;
}

/// An entry of a list: a block of keys, of which only those of `range` matter.
std::uint32_t entry_of(int column, int block, KeyRange range, bool partial) {
    const int first = column * block, end = first + block;
    const auto sixteenths = [&](int keys) {
        return static_cast<std::uint32_t>(std::clamp(keys * 16 / block, 0, 15));
    };
    return static_cast<std::uint32_t>(column) |
           sixteenths(range.begin - first) << BlockList::kHiddenBefore |
           sixteenths(end - range.end) << BlockList::kHiddenBehind |
           (partial ? BlockList::kPartial : 0u);
}

/// What the queries of a block see together, in whole blocks.
void widen_to_blocks(Sight& sight, int block) {
    const int tokens = sight.tokens();
    sight.prefix = std::min(tokens, (sight.prefix + block - 1) / block * block);
    if (sight.suffix < tokens) sight.suffix = sight.suffix / block * block;
    for (int q0 = 0; q0 < tokens; q0 += block) {
        const std::span<KeyRange> rows(sight.ranges.data() + q0,
                                       static_cast<std::size_t>(std::min(block, tokens - q0)));
        KeyRange all{tokens, 0};
        for (const KeyRange& row : rows) {
            all = {std::min(all.begin, row.begin), std::max(all.end, row.end)};
        }
        all = {all.begin / block * block, std::min(tokens, (all.end + block - 1) / block * block)};
        std::fill(rows.begin(), rows.end(), all);
    }
}

}  // namespace

BlockMask make_block_mask(Sight sight, int block, MaskGranularity granularity) {
    if (granularity == MaskGranularity::block) widen_to_blocks(sight, block);
    BlockMask mask{std::move(sight), block, 0, 0, {0}, {}};
    const int tokens = mask.sight.tokens();
    const int prefix = mask.sight.prefix, suffix = mask.sight.suffix;
    const int blocks = (tokens + block - 1) / block;
    std::uint64_t listed = 0, seen = 0;
    for (int b = 0; b < blocks; ++b) {
        const int q0 = b * block, q1 = std::min(q0 + block, tokens);
        const std::span<const KeyRange> rows(mask.sight.ranges.data() + q0,
                                             static_cast<std::size_t>(q1 - q0));
        KeyRange shared{0, tokens};  // what every query of the block sees
        for (const KeyRange& row : rows) {
            shared = {std::max(shared.begin, row.begin), std::min(shared.end, row.end)};
            // The range's keys that the prefix and the suffix do not hold already, and theirs.
            const int begin = std::max(row.begin, prefix), end = std::min(row.end, suffix);
            seen += static_cast<std::uint64_t>(std::max(0, end - begin) + prefix + tokens - suffix);
        }
        for (int column = 0; column < blocks; ++column) {
            const int k0 = column * block, k1 = std::min(k0 + block, tokens);
            const auto sees_some = [&](const KeyRange& row) {
                return row.begin < std::min(k1, row.end) && row.end > k0;
            };
            const bool outer = k0 < prefix || k1 > suffix;
            if (!outer && std::none_of(rows.begin(), rows.end(), sees_some)) continue;
            const bool whole =
                k1 <= prefix || k0 >= suffix || (k0 >= shared.begin && k1 <= shared.end);
            const KeyRange keys{k0, k1};
            mask.columns.push_back(entry_of(
                column, block, whole ? keys : seen_range(mask.sight, q0, q1, keys), !whole));
            listed += static_cast<std::uint64_t>(q1 - q0) * static_cast<std::uint64_t>(k1 - k0);
        }
        mask.row_ptr.push_back(static_cast<std::uint32_t>(mask.columns.size()));
    }
    const double all = static_cast<double>(tokens) * tokens;
    mask.token_density = static_cast<double>(seen) / all;
    mask.block_density = static_cast<double>(listed) / all;
    return mask;
}

BlockMask complete_list(const BlockMask& mask) {
    BlockMask all{mask.sight, mask.block, 1, 1, {0}, {}};
    const std::size_t blocks = mask.row_ptr.size() - 1;
    const int tokens = mask.sight.tokens();
    const auto keys_of = [&](std::size_t b) {
        const int first = static_cast<int>(b) * mask.block;
        return KeyRange{first, std::min(first + mask.block, tokens)};
    };
    const auto end_row = [&] {
        all.row_ptr.push_back(static_cast<std::uint32_t>(all.columns.size()));
    };
    for (std::size_t b = 0; b < blocks; ++b) {
        const std::span<const std::uint32_t> listed(mask.columns.data() + mask.row_ptr[b],
                                                    mask.row_ptr[b + 1] - mask.row_ptr[b]);
        all.columns.insert(all.columns.end(), listed.begin(), listed.end());
        end_row();
        auto next = listed.begin();
        const KeyRange queries = keys_of(b);
        for (std::size_t column = 0; column < blocks; ++column) {
            const bool is_listed =
                next != listed.end() && (*next & BlockList::kBlockMask) == column;
            KeyRange keys = keys_of(column);
            if (is_listed) {
                const bool partial = (*next & BlockList::kPartial) != 0;
                ++next;
                if (!partial) continue;
                keys = unseen_range(mask.sight, queries.begin, queries.end, keys);
                if (keys.begin >= keys.end) continue;
            }
            all.columns.push_back(entry_of(static_cast<int>(column), mask.block, keys, is_listed));
        }
        end_row();
    }
    return all;
}

kernels::BlockList declare_block_list(program::Program& program, const std::string& name,
                                      const BlockMask& mask, std::uint64_t most_entries) {
    using program::Lifetime;
    BlockList list;
    list.row_ptr = program.add(name + ".row_ptr", mask.row_ptr.size() * 4, Lifetime::persistent);
    list.most_entries = std::max<std::uint64_t>(mask.columns.size(), most_entries);
    list.columns = program.add(name + ".columns", list.most_entries * 4, Lifetime::persistent);
    list.sight =
        program.add(name + ".sight", (mask.sight.ranges.size() + 1) * 8, Lifetime::persistent);
    list.block = mask.block;
    list.query_blocks = static_cast<int>(mask.row_ptr.size()) - 1;
    list.density = mask.block_density;
    return list;
}

void write_block_list(program::Executor& executor, const BlockList& list, const BlockMask& mask) {
    const auto rows = static_cast<int>(mask.row_ptr.size()) - 1;
    if (mask.block != list.block || rows != list.query_blocks ||
        mask.columns.size() > list.most_entries) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("a mask of {} rows of blocks of {} with {} entries doesn't fit a "
                                "list of {} rows of blocks of {} with room for {}: declare the "
                                "list with more entries",
                                rows, mask.block, mask.columns.size(), list.query_blocks,
                                list.block, list.most_entries));
    }
    std::vector<std::uint32_t> sight = {static_cast<std::uint32_t>(mask.sight.prefix),
                                        static_cast<std::uint32_t>(mask.sight.suffix)};
    for (const KeyRange& range : mask.sight.ranges) {
        sight.push_back(static_cast<std::uint32_t>(range.begin));
        sight.push_back(static_cast<std::uint32_t>(range.end));
    }
    executor.write_values(list.row_ptr, std::span<const std::uint32_t>(mask.row_ptr));
    executor.write_values(list.columns, std::span<const std::uint32_t>(mask.columns));
    executor.write_values(list.sight, std::span<const std::uint32_t>(sight));
}

}  // namespace quantsparse::attention
