#include "models/sparse_linear_attention.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "kernels/linear_attention.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {

kernels::BlockRule sparse_linear_rule(int tokens, double density) {
    kernels::BlockRule rule;
    rule.tokens = tokens;
    rule.block = 64;
    rule.group = 2;
    rule.reach = -1;
    rule.suffix = rule.full_begin = rule.blocks();
    rule.keep = std::clamp(static_cast<int>(density * rule.blocks()), 1, rule.blocks());
    return rule;
}

void require_lists_fit(const kernels::BlockRule& rule, const program::Limits& limits, int heads,
                       const char* remedy, const char* field) {
    if (rule.fits(limits, heads, false)) return;
    throw Error(
        ErrorCode::invalid_argument,
        fmt::format("lists of chosen blocks need {:.0f} MiB at once, more than the "
                    "device binds: choose {}",
                    static_cast<double>(rule.most_entries()) * heads * 4 / (1 << 20), remedy),
        field);
}

SparseLinearAttention::SparseLinearAttention(kernels::Program& program, int tokens, int heads,
                                             double density)
    : program_(program), rule_(sparse_linear_rule(tokens, density)) {
    require_lists_fit(rule_, program.limits(), heads, "less density", "density");
    sight_ = program_.add("sla.sight", kernels::sight_bytes(rule_), program::Lifetime::persistent);
}

void SparseLinearAttention::build(const std::string& name, const kernels::HeadMatrix& q,
                                  const kernels::HeadMatrix& k, const kernels::HeadMatrix& v,
                                  const kernels::FloatWeight& projection,
                                  AttentionProducts products, const kernels::Matrix& out) {
    kernels::AttentionOptions options;
    options.scale = 1.0f / std::sqrt(static_cast<float>(q.head_dim));
    options.products = products;
    const kernels::Tensor choice = program_.add(name + ".choice", rule_.choice_bytes(q.heads));
    choose_blocks(program_, name + ".choose", q, k, options.scale, rule_, choice);
    const kernels::BlockList list =
        list_blocks(program_, name + ".list", choice, q.heads, rule_, sight_);
    options.blocks = &list;
    kernels::attention(program_, name + ".sparse", q, k, v, out, options);
    kernels::add_linear_attention(program_, name + ".linear", q, k, v, projection, out);
}

void SparseLinearAttention::reset(program::Executor& executor) const {
    executor.clear(sight_);
}

}  // namespace quantsparse::models
