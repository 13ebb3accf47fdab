// The self-attention of a block: all of it, or sparse with the state that SSAR keeps.
#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "kernels/head_profile.hpp"
#include "models/wan_dit.hpp"

namespace quantsparse::models {

using attention::StepKind;
using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::HeadMatrix;
using program::Lifetime;

namespace {

/// Whether anything is added between refreshes.
bool corrects(const AttentionParameters& parameters) {
    return attention::history_slots(parameters.ssar) > 0;
}

}  // namespace

bool WanDit::has_step(StepKind kind) const {
    return std::find(options_.step_kinds.begin(), options_.step_kinds.end(), kind) !=
           options_.step_kinds.end();
}

void WanDit::declare_attention() {
    const AttentionParameters& parameters = options_.attention;
    if (!has_step(StepKind::sparse) && !has_step(StepKind::refresh)) return;
    const auto& c = options_.config;
    const int sink = parameters.sink == Sink::none ? 0 : grid_rows_ * grid_columns_;
    mask_ = attention::make_block_mask(
        attention::band_sight(
            tokens_, attention::band_width(tokens_, sink, parameters.density, parameters.mask),
            sink),
        parameters.block_size ? parameters.block_size
                              : kernels::default_block(program_.limits(), tokens_),
        parameters.granularity);
    blocks_list_ = attention::declare_block_list(program_, "mask", mask_);
    if (has_step(StepKind::refresh) && corrects(parameters)) {
        complete_list_ = attention::declare_block_list(program_, "complete_mask",
                                                       attention::complete_list(mask_));
    }
    if (corrects(parameters)) {
        residuals_ = std::make_unique<attention::ResidualState>(
            program_,
            attention::ResidualOptions{parameters.ssar, parameters.residual, parameters.ssar_rank,
                                       tokens_, c.num_heads, c.head_dim()},
            parameters.dense_layers, layers_, options_.branches);
    }
    for (int i = 0; i < layers_ * options_.branches; ++i) {
        head_types_.push_back(program_.add(fmt::format("head_types.{}", i),
                                           static_cast<std::uint64_t>(c.num_heads) * 4,
                                           Lifetime::persistent));
    }
}

void WanDit::reset(program::Executor& executor) const {
    executor.clear(watch_);
    if (residuals_) residuals_->reset(executor);
    for (const Tensor types : head_types_) executor.clear(types);
    if (blocks_list_.row_ptr.valid()) write_block_list(executor, blocks_list_, mask_);
    if (complete_list_.row_ptr.valid()) {
        write_block_list(executor, complete_list_, attention::complete_list(mask_));
    }
}

Matrix WanDit::build_self_attention(int index, int branch, StepKind kind,
                                    const LinearInput& input) {
    const auto& c = options_.config;
    const AttentionParameters& parameters = options_.attention;
    const Block& block = blocks_[static_cast<std::size_t>(index)];
    const bool kept = branch == 0 && kind == options_.step_kinds.front();
    if (index < parameters.dense_layers) kind = StepKind::dense;
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim()));

    const auto project = [&](const Linear& weights, const char* name) {
        const Matrix rows = add_matrix(program_, name, tokens_, c.dim);
        apply(program_, std::string("self_attn.") + name, weights, input, rows);
        return rows;
    };
    const Matrix q_rows = project(block.self_q, "q");
    const Matrix k_rows = project(block.self_k, "k");
    const Matrix v_rows = project(block.self_v, "v");
    struct Operands {
        HeadMatrix q, k, v;
    };
    const auto add = [&](const char* name) {
        return add_head_matrix(program_, name, c.num_heads, tokens_, c.head_dim());
    };
    const Operands heads = {add("q_heads"), add("k_heads"), add("v_heads")};
    const auto split = [&](const kernels::TokenOrder& order, bool only_temporal) {
        const auto write = [&](const Matrix& rows, const HeadMatrix& out, const char* name,
                               Tensor norm, bool rotate) {
            kernels::HeadTransform transform = rotate ? rope() : kernels::HeadTransform{};
            transform.norm_weight = norm;
            transform.order = order;
            transform.only_temporal = only_temporal;
            split_heads(program_, std::string("self_attn.split_") + name, rows, out, transform);
        };
        write(q_rows, heads.q, "q", block.self_norm_q, true);
        write(k_rows, heads.k, "k", block.self_norm_k, true);
        write(v_rows, heads.v, "v", {}, false);
    };

    kernels::AttentionOptions dense;
    dense.scale = scale;
    dense.products = parameters.products;
    // A refresh computes two results, where it can in one pass that writes one behind the other.
    const bool twice = kind == StepKind::refresh && residuals_;
    const Matrix both{
        {}, kernels::round_up(tokens_, 64) + tokens_, c.dim, kernels::round_up(c.dim, 4), 0};
    const auto first = [&](const Matrix& m) { return m.slice(0, tokens_); };
    const auto second = [&](const Matrix& m) { return m.slice(m.rows - tokens_, tokens_); };
    const bool one_pass =
        twice && parameters.sink != Sink::frame0 &&
        kernels::attends_both(program_, first(both), second(both), parameters.products);
    const Matrix results = add_matrix(program_, "self_attn", one_pass ? both.rows : tokens_, c.dim);
    const Matrix out = first(results);
    if (kind == StepKind::dense) {
        split({}, false);
        kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out, dense);
        if (kept) {
            const std::string mid = fmt::format("block{}.", index);
            keep(program_, mid + "self_attn.q_rope", heads.q);
            keep(program_, mid + "self_attn.k_rope", heads.k);
        }
        return out;
    }

    const kernels::TokenOrder order{head_types_[static_cast<std::size_t>(branch * layers_ + index)],
                                    options_.latent_frames, grid_rows_ * grid_columns_,
                                    parameters.sink == Sink::frame0};
    // Types belong to the residuals, so they are decided when those are: at a refresh. Without
    // refreshes every step decides anew.
    const bool refresh = kind == StepKind::refresh;
    const bool decides = refresh || parameters.ssar == SsarMode::off;
    if (decides) {
        split({}, false);
        profile_heads(program_, "self_attn.profile", heads.q, heads.k, heads.v, scale, blocks_list_,
                      order);
        if (refresh && !one_pass) {
            kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out,
                               dense);
        }
    }
    if (refresh && !residuals_) return out;

    split(order, decides);
    kernels::AttentionOptions sparse = dense;
    sparse.blocks = &blocks_list_;
    sparse.order = order;
    if (!refresh) {
        if (residuals_) sparse.residual = &residuals_->at(index, branch);
        kernels::attention(program_, "self_attn.sparse", heads.q, heads.k, heads.v, out, sparse);
        return out;
    }
    const Matrix masked =
        one_pass ? second(results) : add_matrix(program_, "self_attn.masked", tokens_, c.dim);
    if (one_pass) {
        sparse.blocks = &complete_list_;
        sparse.masked = &masked;
        kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out, sparse);
    } else {
        kernels::attention(program_, "self_attn.sparse", heads.q, heads.k, heads.v, masked, sparse);
    }
    residuals_->refresh("self_attn.residual", index, branch, out, masked, order.head_types);
    return out;
}

}  // namespace quantsparse::models
