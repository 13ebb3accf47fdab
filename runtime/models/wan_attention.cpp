// The self-attention of a block: all of it, or sparse with the state that SSAR keeps.
#include <fmt/format.h>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "models/wan_dit.hpp"

namespace quantsparse::models {

using attention::StepKind;
using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::HeadMatrix;
using program::Lifetime;

void WanDit::declare_attention() {}

void WanDit::reset(program::Executor& executor) const {
    executor.clear(watch_);
    if (residuals_) residuals_->reset(executor);
}

void WanDit::build_self_attention(int index, int branch, StepKind kind, const LinearInput& input,
                                  const Matrix& out) {
    const auto& c = options_.config;
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    const std::string mid = fmt::format("block{}.", index);
    const bool kept = branch == 0 && kind == options_.step_kinds.front();
    kernels::AttentionOptions attention;
    attention.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim()));

    const auto project = [&](const Linear& weights, const char* name, Tensor norm_weight,
                             bool rotate) {
        const Matrix rows = add_matrix(program_, name, tokens_, c.dim);
        apply(program_, std::string("self_attn.") + name, weights, input, rows);
        const HeadMatrix heads = add_head_matrix(program_, std::string(name) + "_heads",
                                                 c.num_heads, tokens_, c.head_dim());
        kernels::HeadTransform transform = rotate ? rope() : kernels::HeadTransform{};
        transform.norm_weight = norm_weight;
        split_heads(program_, std::string("self_attn.split_") + name, rows, heads, transform);
        return heads;
    };
    const HeadMatrix q = project(block.self_q, "q", block.self_norm_q, true);
    const HeadMatrix k = project(block.self_k, "k", block.self_norm_k, true);
    const HeadMatrix v = project(block.self_v, "v", {}, false);
    attention_dense(program_, "self_attn.attention", q, k, v, out, attention);
    if (kept) {
        keep(program_, mid + "self_attn.q_rope", q);
        keep(program_, mid + "self_attn.k_rope", k);
    }
}

}  // namespace quantsparse::models
