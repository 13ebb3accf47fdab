#include "attention/block_rule.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::attention {

int block_size_of(const AttentionParameters& parameters, const program::Limits& limits,
                  int tokens) {
    constexpr int kJengaBlock = 128;
    const int usual =
        parameters.mask == MaskMode::jenga ? kJengaBlock : kernels::default_block(limits, tokens);
    return parameters.block_size.value_or(usual);
}

kernels::BlockRule make_block_rule(const TokenSpan& span, int block, double density, double top_p) {
    kernels::BlockRule rule;
    rule.tokens = span.tokens;
    rule.block = block;
    const int blocks = rule.blocks();
    const auto up = [&](int token) { return (token + block - 1) / block; };
    const int behind = span.grid_end < span.tokens ? span.grid_end / block : blocks;
    rule.prefix = std::min(blocks, up(std::min(span.grid_begin + span.sink, span.tokens)));
    rule.suffix = behind;
    rule.full_end = up(span.grid_begin);
    rule.full_begin = std::max(behind, rule.full_end);
    const int rows = rule.full_begin - rule.full_end;
    if (rows > 0) {
        const double wanted =
            density * blocks * blocks - static_cast<double>(blocks - rows) * blocks;
        rule.keep = std::clamp(static_cast<int>(std::lround(wanted / rows)), 1, blocks);
    }
    if (top_p >= 1) {
        rule.keep = blocks;
    } else {
        rule.top_p = static_cast<float>(top_p);
    }
    return rule;
}

}  // namespace quantsparse::attention
