#include "kernels/block_choice.hpp"

#include <algorithm>
#include <shaders/block_choice.hpp>
#include <shaders/block_list_columns.hpp>
#include <shaders/block_list_rows.hpp>
#include <shaders/block_means.hpp>
#include <shaders/block_scores.hpp>

#include "kernels/loads.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

using program::read;
using program::write;
using shaders::ShaderId;

constexpr int kScoreRows = 4;  ///< of an invocation of block_scores.comp

/// The width of work-groups whose invocations own items of their own.
std::uint32_t item_lanes(const Program& program) {
    return program.limits().runs_on_cpu ? kPrivateLanes : 64u;
}

/// `group` neighbours share a mean.
HeadMatrix mean_blocks(Program& program, const std::string& name, const HeadMatrix& x,
                       const BlockRule& rule, int group) {
    const int items = rule.blocks() * x.padded_dim / 4;
    const HeadMatrix means = add_head_matrix(program, name, x.heads, rule.blocks(), x.head_dim);
    const Loads load = loads(program, {read(x.tensor)});
    const std::uint32_t lanes = item_lanes(program);
    const int chunk = heads_per_dispatch(program, x.head_bytes(), x.heads);
    for (int head = 0; head < x.heads; head += chunk) {
        const int heads = std::min(chunk, x.heads - head);
        program.dispatch(name, load.texels ? ShaderId::block_means_texels : ShaderId::block_means,
                         {lanes}, {load(read_heads(x, head, heads)), write(means.tensor)},
                         shaders::block_means::Push{.tokens = u32(rule.tokens),
                                                    .block = u32(rule.block),
                                                    .blocks = u32(rule.blocks()),
                                                    .stride = u32(x.token_stride),
                                                    .dim4 = u32(x.padded_dim / 4),
                                                    .first_head = u32(head),
                                                    .group = u32(group),
                                                    .mean_stride = u32(means.token_stride)},
                         {ceil_div(u32(items), lanes), u32(heads), 1},
                         1.0 * group * rule.tokens * x.padded_dim * heads);
    }
    return means;
}

/// The narrowest work-group with an invocation for each word of a row.
std::uint32_t choice_lanes(const Program& program, const BlockRule& rule) {
    const std::uint32_t most = item_lanes(program);
    std::uint32_t lanes = std::min(kPrivateLanes, most);
    while (lanes < most && lanes < u32(rule.words())) lanes *= 2;
    return lanes;
}

}  // namespace

HeadMatrix pool_blocks(Program& program, const std::string& name, const HeadMatrix& x,
                       const BlockRule& rule) {
    return mean_blocks(program, name, x, rule, 1);
}

int BlockRule::forced(int row) const {
    if (prefix >= suffix) return blocks();
    const int first = std::max(prefix, row - reach), last = std::min(suffix, row + reach + 1);
    const int count = prefix + std::max(0, last - first) + blocks() - suffix;
    return std::min(blocks(), count + most_always);
}

std::uint64_t BlockRule::most_entries() const {
    std::uint64_t entries = 0;
    for (int row = 0; row < blocks(); ++row) {
        const bool all = is_full(row) || top_p > 0;
        const int count =
            beside ? std::min(blocks(), keep + forced(row)) : std::max(keep, forced(row));
        entries += static_cast<std::uint64_t>(all ? blocks() : count);
    }
    return entries;
}

std::uint64_t BlockRule::head_entries(bool complete) const {
    const auto rows = static_cast<std::uint64_t>(blocks());
    return complete ? rows * rows : most_entries();
}

bool BlockRule::fits(const program::Limits& limits, int heads, bool complete) const {
    return head_entries(complete) * static_cast<std::uint64_t>(heads) * 4 <=
           limits.max_binding_bytes;
}

double BlockRule::density() const {
    BlockRule fixed = *this;
    fixed.top_p = 0;
    return static_cast<double>(fixed.most_entries()) / blocks() / blocks();
}

void choose_blocks(Program& program, const std::string& name, const HeadMatrix& q,
                   const HeadMatrix& k, float scale, const BlockRule& rule, Tensor choice) {
    const HeadMatrix q_means = mean_blocks(program, name + ".q_means", q, rule, rule.group);
    const HeadMatrix k_means = mean_blocks(program, name + ".k_means", k, rule, 1);
    const int blocks = rule.blocks(), stride4 = (blocks + 3) / 4;
    const std::uint64_t head_bytes =
        static_cast<std::uint64_t>(blocks) * static_cast<std::uint64_t>(stride4) * 16;
    const std::uint32_t lanes = item_lanes(program);
    using Constant = shaders::block_choice::Constant;
    const Specialization<Constant> constants(choice_lanes(program, rule),
                                             {{Constant::top_p, rule.top_p > 0},
                                              {Constant::always, rule.always.valid()},
                                              {Constant::beside, rule.beside}});
    const program::Binding always =
        rule.always.valid() ? read(rule.always) : program::unused(q.tensor);
    const int chunk = heads_per_dispatch(program, head_bytes, q.heads);
    for (int head = 0; head < q.heads; head += chunk) {
        const int heads = std::min(chunk, q.heads - head);
        const Tensor scores =
            program.add(name + ".scores", head_bytes * static_cast<std::uint64_t>(heads));
        program.dispatch(
            name + ".scores", ShaderId::block_scores, {lanes},
            {read(q_means.tensor), read(k_means.tensor), write(scores)},
            shaders::block_scores::Push{.blocks = u32(blocks),
                                        .stride4 = u32(stride4),
                                        .stride = u32(q_means.token_stride),
                                        .dim4 = u32(q.padded_dim / 4),
                                        .first_head = u32(head),
                                        .scale = scale},
            {ceil_div(std::uint64_t{u32(stride4)} * ceil_div(u32(blocks), kScoreRows), lanes),
             u32(heads), 1},
            2.0 * blocks * blocks * q.padded_dim * heads);
        program.dispatch(name, ShaderId::block_choice, constants,
                         {read(scores), write(choice), always},
                         shaders::block_choice::Push{.blocks = u32(blocks),
                                                     .stride4 = u32(stride4),
                                                     .words = u32(rule.words()),
                                                     .first_head = u32(head),
                                                     .prefix = u32(rule.prefix),
                                                     .suffix = u32(rule.suffix),
                                                     .reach = u32(std::max(0, rule.reach)),
                                                     .near = u32(std::max(0, 2 * rule.reach + 1)),
                                                     .full_end = u32(rule.full_end),
                                                     .full_begin = u32(rule.full_begin),
                                                     .keep = u32(rule.keep),
                                                     .top_p = rule.top_p},
                         {u32(blocks), u32(heads), 1}, 3.0 * blocks * blocks * blocks * heads);
    }
}

BlockList list_blocks(Program& program, const std::string& name, Tensor choice, int heads,
                      const BlockRule& rule, Tensor sight, bool complete) {
    const int blocks = rule.blocks();
    const std::uint64_t head_entries = rule.head_entries(complete);
    BlockList list;
    list.lists = heads;
    list.block = rule.block;
    list.query_blocks = blocks;
    list.density = complete || rule.top_p > 0 ? 1 : rule.density();
    list.most_entries = head_entries * static_cast<std::uint64_t>(heads);
    list.sight = sight;
    list.row_ptr = program.add(name + ".row_ptr", static_cast<std::uint64_t>(heads) *
                                                      static_cast<std::uint64_t>(blocks + 1) *
                                                      (complete ? 8 : 4));
    list.columns = program.add(name + ".columns", list.most_entries * 4);
    const std::uint32_t lanes = item_lanes(program), rows_lanes = row_lanes(program);
    const int words = rule.words();
    using RowsConstant = shaders::block_list_rows::Constant;
    program.dispatch(
        name + ".rows", ShaderId::block_list_rows,
        Specialization<RowsConstant>(
            rows_lanes, {{RowsConstant::lanes, rows_lanes}, {RowsConstant::complete, complete}}),
        {read(choice), write(list.row_ptr)},
        shaders::block_list_rows::Push{.blocks = u32(blocks),
                                       .words = u32(words),
                                       .head_entries = static_cast<std::uint32_t>(head_entries)},
        {u32(heads), 1, 1}, 4.0 * blocks * words * heads);
    using ColumnsConstant = shaders::block_list_columns::Constant;
    program.dispatch(
        name + ".columns", ShaderId::block_list_columns,
        Specialization<ColumnsConstant>(lanes, {{ColumnsConstant::complete, complete}}),
        {read(choice), read(list.row_ptr), write(list.columns)},
        shaders::block_list_columns::Push{.blocks = u32(blocks),
                                          .words = u32(words),
                                          .head_entries = static_cast<std::uint32_t>(head_entries)},
        {ceil_div(u32(blocks * words), lanes), u32(heads), 1}, 40.0 * blocks * words * heads);
    return list;
}

}  // namespace quantsparse::kernels
