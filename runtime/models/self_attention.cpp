#include "models/self_attention.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <bit>
#include <cmath>

#include "attention/block_rule.hpp"
#include "attention/curve_order.hpp"
#include "kernels/attention.hpp"
#include "kernels/copy.hpp"
#include "kernels/head_profile.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::models {

using attention::StepKind;
using kernels::add_head_matrix;
using kernels::add_matrix;
using kernels::HeadMatrix;

namespace {

SsarMode mode_of(const AttentionParameters& parameters) {
    return parameters.ssar.value_or(SsarMode::svd);
}

/// Whether anything is added between refreshes.
bool corrects(const AttentionParameters& parameters) {
    return attention::history_slots(mode_of(parameters)) > 0;
}

bool contains(const std::vector<StepKind>& kinds, StepKind kind) {
    return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

attention::TiledGrid tiled(const TokenGrid& grid) {
    const int columns = std::max(1, grid.columns);
    return {grid.text_in_front, grid.frames, grid.places / columns, columns, grid.text_behind};
}

/// The band among the grid's tokens with its sink; text sees everything and is seen by all.
attention::Sight sight_of(const TokenGrid& grid, const AttentionParameters& parameters) {
    const int tokens = grid.tokens();
    const int sink = parameters.sink == Sink::none ? 0 : grid.places;
    const int band =
        band_beside_text(grid, sink, attention::density_of(parameters), parameters.mask);
    const int begin = grid.text_in_front, end = begin + grid.grid();
    attention::Sight sight;
    sight.suffix = end;
    for (int i = 0; i < tokens; ++i) {
        const bool text = i < begin || i >= end;
        sight.ranges.push_back(
            text ? attention::KeyRange{0, tokens}
                 : attention::KeyRange{std::max(begin, i - band), std::min(end, i + band + 1)});
    }
    sight.prefix = std::min(begin + sink, tokens);
    return sight;
}

}  // namespace

int band_beside_text(const TokenGrid& grid, int sink, double density, MaskMode mode) {
    const int tokens = grid.grid();
    if (tokens == grid.tokens()) return attention::band_width(tokens, sink, density, mode);
    const double all = static_cast<double>(grid.tokens()) * grid.tokens();
    const double of_grid = static_cast<double>(tokens) * tokens;
    const double left = std::max(0.0, density * all - (all - of_grid));
    return attention::band_width(tokens, sink, left / of_grid, mode);
}

SparseSelfAttention::SparseSelfAttention(Program& program, const Shape& shape,
                                         const AttentionParameters& parameters, int layers,
                                         int branches, const std::vector<StepKind>& kinds)
    : program_(program), shape_(shape), parameters_(parameters) {
    if (!parameters_.kind) {
        parameters_.kind = shape.sparse_linear ? AttentionKind::sla : AttentionKind::dense;
    }
    if (shape.sparse_linear != (parameters_.kind == AttentionKind::sla)) {
        throw Error(ErrorCode::invalid_argument,
                    shape.sparse_linear
                        ? "a transformer that was trained with sparse-linear attention runs with "
                          "nothing else"
                        : "sparse-linear attention needs a transformer that was trained with it",
                    "kind");
    }
    if (shape.sparse_linear) {
        sparse_linear_.emplace(program, shape.grid.tokens(), shape.heads,
                               attention::density_of(parameters_));
        return;
    }
    const bool refreshes = contains(kinds, StepKind::refresh);
    if (!contains(kinds, StepKind::sparse) && !refreshes) return;
    if (corrects(parameters)) {
        residuals_ = std::make_unique<attention::ResidualState>(
            program,
            attention::ResidualOptions{mode_of(parameters), parameters.residual,
                                       parameters.ssar_rank, shape.grid.tokens(), shape.heads,
                                       shape.head_dim},
            parameters.dense_layers, layers, branches);
    }
    if (attention::lists_blocks(parameters)) {
        declare_choices(layers);
        return;
    }
    declare_band(refreshes);
    for (int i = 0; i < layers; ++i) {
        head_types_.push_back(program.add(fmt::format("head_types.{}", i),
                                          static_cast<std::uint64_t>(shape.heads) * 4,
                                          program::Lifetime::persistent));
    }
}

void SparseSelfAttention::declare_band(bool refreshes) {
    const int block =
        attention::block_size_of(parameters_, program_.limits(), shape_.grid.tokens());
    mask_ = attention::make_block_mask(sight_of(shape_.grid, parameters_), block,
                                       parameters_.granularity);
    blocks_list_ = attention::declare_block_list(program_, "mask", mask_);
    if (residuals_ && refreshes) {
        complete_list_ = attention::declare_block_list(program_, "complete_mask",
                                                       attention::complete_list(mask_));
    }
}

kernels::BlockRule SparseSelfAttention::rule_of_file(int layers) {
    const TokenGrid& grid = shape_.grid;
    mask_file_ = read_mask_file(parameters_.mask_file,
                                {parameters_.dense_layers, layers, shape_.heads, grid.tokens()});
    if (parameters_.block_size.value_or(mask_file_->block) != mask_file_->block) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the mask file has blocks of {} tokens: leave the size out",
                                mask_file_->block),
                    "block_size");
    }
    kernels::BlockRule rule;
    rule.tokens = grid.tokens();
    rule.block = mask_file_->block;
    rule.suffix = rule.full_begin = rule.blocks();
    rule.reach = -1;
    rule.keep = mask_file_->most;
    return rule;
}

kernels::BlockRule SparseSelfAttention::chosen_rule() {
    const TokenGrid& grid = shape_.grid;
    const int begin = grid.text_in_front;
    const bool curve = attention::block_order_of(parameters_) == BlockOrder::curve;
    const bool sink =
        parameters_.sink != Sink::none && !curve;  // the curve spreads the first frame
    kernels::BlockRule rule = attention::make_block_rule(
        {grid.tokens(), begin, begin + grid.grid(), sink ? grid.places : 0},
        attention::block_size_of(parameters_, program_.limits(), grid.tokens()),
        attention::density_of(parameters_), attention::top_p_of(parameters_));
    if (parameters_.mask == MaskMode::jenga && attention::top_p_of(parameters_) < 1) {
        rule.beside = true;
        const double least = attention::density_of(parameters_) * rule.blocks();
        rule.keep = std::min(rule.blocks(), static_cast<int>(std::ceil(least - 1e-9)));
    }
    if (curve) {
        const auto touching = attention::touching_blocks(
            tiled(grid), attention::curve_positions(tiled(grid)), rule.block);
        rule.reach = 0;
        rule.most_always = attention::most_in_a_row(touching, rule.words());
        rule.always =
            program_.add("choice.touching", touching.size() * 4, program::Lifetime::persistent);
    }
    return rule;
}

void SparseSelfAttention::declare_choices(int layers) {
    rule_ = parameters_.mask_file.empty() ? chosen_rule() : rule_of_file(layers);
    require_lists_fit(*rule_, program_.limits(), shape_.heads,
                      "larger blocks, less density or no top_p", "block_size");
    sight_ =
        program_.add("choice.sight", kernels::sight_bytes(*rule_), program::Lifetime::persistent);
    if (attention::block_order_of(parameters_) != BlockOrder::frames) {
        positions_ =
            program_.add("choice.positions", static_cast<std::uint64_t>(shape_.grid.tokens()) * 4,
                         program::Lifetime::persistent);
    }
    for (int layer = 0; layer < layers; ++layer) {
        choices_.push_back(program_.add(fmt::format("choice.{}", layer),
                                        rule_->choice_bytes(shape_.heads),
                                        program::Lifetime::persistent));
    }
}

kernels::BlockList SparseSelfAttention::chosen_list(int layer, bool complete) {
    return list_blocks(program_, "self_attn.list", choices_[static_cast<std::size_t>(layer)],
                       shape_.heads, *rule_, sight_, complete);
}

void SparseSelfAttention::reset(program::Executor& executor) const {
    if (sparse_linear_) sparse_linear_->reset(executor);
    if (residuals_) residuals_->reset(executor);
    for (const Tensor types : head_types_) executor.clear(types);
    for (const Tensor choice : choices_) executor.clear(choice);
    for (std::size_t i = 0; mask_file_ && i < mask_file_->choices.size(); ++i) {
        const auto layer = static_cast<std::size_t>(parameters_.dense_layers) + i;
        executor.write_values(choices_[layer],
                              std::span<const std::uint32_t>(mask_file_->choices[i]));
    }
    if (sight_.valid()) executor.clear(sight_);
    if (positions_.valid()) write_order(executor);
    if (blocks_list_.row_ptr.valid()) write_block_list(executor, blocks_list_, mask_);
    if (complete_list_.row_ptr.valid()) {
        write_block_list(executor, complete_list_, attention::complete_list(mask_));
    }
}

void SparseSelfAttention::write_order(program::Executor& executor) const {
    const attention::TiledGrid grid = tiled(shape_.grid);
    const std::vector<std::uint32_t> positions =
        attention::block_order_of(parameters_) == BlockOrder::curve
            ? attention::curve_positions(grid)
            : attention::tile_positions(grid, rule_->block);
    executor.write_values(positions_, std::span<const std::uint32_t>(positions));
    if (rule_->always.valid()) {
        const auto touching = attention::touching_blocks(grid, positions, rule_->block);
        executor.write_values(rule_->always, std::span<const std::uint32_t>(touching));
    }
}

std::vector<double> SparseSelfAttention::chosen_densities(const program::Executor& executor,
                                                          int layer) const {
    std::vector<double> densities;
    if (!rule_ || layer < parameters_.dense_layers || layer >= std::ssize(choices_))
        return densities;
    const std::size_t words = rule_->choice_bytes(1) / 4;
    const auto choice = executor.read_values<std::uint32_t>(
        choices_[static_cast<std::size_t>(layer)], words * static_cast<std::size_t>(shape_.heads));
    for (auto head = choice.begin(); head != choice.end();
         head += static_cast<std::ptrdiff_t>(words)) {
        double chosen = 0;
        std::for_each(head, head + static_cast<std::ptrdiff_t>(words),
                      [&](std::uint32_t word) { chosen += std::popcount(word); });
        densities.push_back(chosen / rule_->blocks() / rule_->blocks());
    }
    return densities;
}

void SparseSelfAttention::split(const Operands& operands, const Heads& heads,
                                const kernels::TokenOrder& order, bool only_temporal) {
    const auto write = [&](const Matrix& rows, const HeadMatrix& out, const char* name,
                           kernels::HeadTransform transform) {
        transform.order = order;
        transform.only_temporal = only_temporal;
        split_heads(program_, std::string("self_attn.split_") + name, rows, out, transform);
    };
    write(operands.q, heads.q, "q", operands.q_transform);
    write(operands.k, heads.k, "k", operands.k_transform);
    write(operands.v, heads.v, "v", {});
}

Matrix SparseSelfAttention::build(int layer, int branch, StepKind kind, const Operands& operands,
                                  const std::string& kept) {
    const int tokens = shape_.grid.tokens();
    const auto add = [&](const char* name) {
        return add_head_matrix(program_, name, shape_.heads, tokens, shape_.head_dim);
    };
    const Heads heads = {add("q_heads"), add("k_heads"), add("v_heads")};
    if (kind != StepKind::dense && layer >= parameters_.dense_layers) {
        return build_sparse(layer, branch, kind == StepKind::refresh, operands, heads);
    }
    const Matrix out = add_matrix(program_, "self_attn", tokens, shape_.heads * shape_.head_dim);
    split(operands, heads, {}, false);
    if (sparse_linear_) {
        sparse_linear_->build("self_attn.sla", heads.q, heads.k, heads.v,
                              operands.linear_projection, parameters_.products, out);
    } else {
        kernels::AttentionOptions dense;
        dense.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
        dense.products = parameters_.products;
        kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out, dense);
    }
    if (!kept.empty()) {
        keep(program_, kept + "q_rope", heads.q);
        keep(program_, kept + "k_rope", heads.k);
    }
    return out;
}

kernels::TokenOrder SparseSelfAttention::order_of(int layer) const {
    kernels::TokenOrder order;
    if (!rule_) order.head_types = head_types_[static_cast<std::size_t>(layer)];
    order.frames = shape_.grid.frames;
    order.tokens_per_frame = shape_.grid.places;
    order.text_in_front = shape_.grid.text_in_front;
    order.first_frame_apart = parameters_.sink == Sink::frame0;
    order.positions = positions_;
    return order;
}

std::optional<kernels::AttentionTail> SparseSelfAttention::tail_of(int layer, const Heads& heads) {
    if (parameters_.tail == BlockTail::none) return std::nullopt;
    return kernels::AttentionTail{pool_blocks(program_, "self_attn.pool_k", heads.k, *rule_),
                                  pool_blocks(program_, "self_attn.pool_v", heads.v, *rule_),
                                  choices_[static_cast<std::size_t>(layer)]};
}

Matrix SparseSelfAttention::build_sparse(int layer, int branch, bool refresh,
                                         const Operands& operands, const Heads& heads) {
    const int tokens = shape_.grid.tokens(), width = shape_.heads * shape_.head_dim;
    kernels::AttentionOptions dense;
    dense.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    dense.products = parameters_.products;
    // A refresh computes two results, where it can in one pass that writes one behind the other.
    const Matrix both{
        {}, kernels::round_up(tokens, 64) + tokens, width, kernels::round_up(width, 4), 0};
    const auto first = [&](const Matrix& m) { return m.slice(0, tokens); };
    const auto second = [&](const Matrix& m) { return m.slice(m.rows - tokens, tokens); };
    const bool in_frames = rule_ ? !positions_.valid() : parameters_.sink != Sink::frame0;
    const bool one_pass =
        refresh && residuals_ && in_frames && parameters_.tail == BlockTail::none &&
        (!rule_ || rule_->fits(program_.limits(), shape_.heads, true)) &&
        kernels::attends_both(program_, first(both), second(both), parameters_.products);
    const Matrix results = add_matrix(program_, "self_attn", one_pass ? both.rows : tokens, width);
    const Matrix out = first(results);

    const kernels::TokenOrder order = order_of(layer);
    // Types belong to the residuals, so they are decided when those are: at a refresh. Without
    // refreshes every step decides anew. The branch with the prompt runs first and decides for
    // both: guidance amplifies errors that differ between the branches, not those they share.
    const bool decides = branch == 0 && (refresh || parameters_.ssar == SsarMode::off);
    const auto attend_to_all = [&] {
        kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out, dense);
    };
    const bool separate = refresh && !one_pass;
    if (rule_) {
        const bool moved = positions_.valid();
        if (separate && moved) {
            split(operands, heads, {}, false);
            attend_to_all();
        }
        split(operands, heads, order, false);
        if (separate && !moved) attend_to_all();
        if (decides && !mask_file_) {
            choose_blocks(program_, "self_attn.choose", heads.q, heads.k, dense.scale, *rule_,
                          choices_[static_cast<std::size_t>(layer)]);
        }
    } else {
        const bool unordered = decides || separate;
        if (unordered) split(operands, heads, {}, false);
        if (decides) {
            profile_heads(program_, "self_attn.profile", heads.q, heads.k, heads.v, dense.scale,
                          blocks_list_, order);
        }
        if (separate) attend_to_all();
        if (!refresh || residuals_) split(operands, heads, order, unordered);
    }
    if (refresh && !residuals_) return out;

    const kernels::BlockList list = rule_      ? chosen_list(layer, one_pass)
                                    : one_pass ? complete_list_
                                               : blocks_list_;
    kernels::AttentionOptions sparse = dense;
    sparse.blocks = &list;
    sparse.order = order;
    const std::optional<kernels::AttentionTail> tail = tail_of(layer, heads);
    if (tail) sparse.tail = &*tail;
    if (!refresh) {
        if (residuals_) sparse.residual = &residuals_->at(layer, branch);
        kernels::attention(program_, "self_attn.sparse", heads.q, heads.k, heads.v, out, sparse);
        return out;
    }
    const Matrix masked =
        one_pass ? second(results) : add_matrix(program_, "self_attn.masked", tokens, width);
    if (one_pass) {
        sparse.masked = &masked;
        kernels::attention(program_, "self_attn.attention", heads.q, heads.k, heads.v, out, sparse);
    } else {
        kernels::attention(program_, "self_attn.sparse", heads.q, heads.k, heads.v, masked, sparse);
    }
    residuals_->refresh("self_attn.residual", layer, branch, out, masked, order.head_types);
    return out;
}

}  // namespace quantsparse::models
