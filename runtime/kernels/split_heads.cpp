#include <fmt/format.h>
#include <shaders/split_heads.hpp>

#include "kernels/loads.hpp"
#include "kernels/rows.hpp"
#include "kernels/specialization.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {

HeadMatrix add_head_matrix(Program& program, const std::string& name, int heads, int tokens,
                           int head_dim, program::Lifetime lifetime) {
    HeadMatrix out{{}, heads, tokens, head_dim, round_up(head_dim, 4), round_up(tokens, 16)};
    out.tensor = program.add(name, out.head_bytes() * static_cast<std::uint64_t>(heads), lifetime);
    return out;
}

void split_heads(Program& program, const std::string& name, const Matrix& input,
                 const HeadMatrix& out, const HeadTransform& transform) {
    using shaders::ShaderId;
    using Constant = shaders::split_heads::Constant;
    const TokenOrder& order = transform.order;
    const bool typed = order.head_types.valid();
    if (typed && input.rows > TokenOrder::kMostTokens) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{}: heads of two orders hold {} tokens at most, not {}: make the "
                                "clip smaller or attention dense",
                                name, TokenOrder::kMostTokens, input.rows));
    }
    const Loads load = row_loads(program, input, out.head_dim % 4 == 0,
                                 {transform.norm_weight, transform.rope_table});
    const auto optional = [&](Tensor t) { return load.optional(t, input.tensor); };
    const std::uint32_t lanes = load.texels ? kPrivateLanes : row_lanes(program);
    const Specialization<Constant> constants(lanes,
                                             {{Constant::norm, transform.norm_weight.valid()},
                                              {Constant::rope, transform.rope_table.valid()},
                                              {Constant::frames, typed ? u32(order.frames) : 0},
                                              {Constant::frame0_apart, order.first_frame_apart},
                                              {Constant::only_temporal, transform.only_temporal},
                                              {Constant::positions, order.positions.valid()}});
    const int head_chunk = heads_per_dispatch(program, out.head_bytes(), out.heads);
    const int row_chunk =
        std::min(kMaxRows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    for (int head = 0; head < out.heads; head += head_chunk) {
        const int heads = std::min(head_chunk, out.heads - head);
        program::Binding target = write_heads(out, head, heads);
        target.reads = transform.only_temporal;  // the others' results stay
        for (int first = 0; first < input.rows; first += row_chunk) {
            const int rows = std::min(row_chunk, input.rows - first);
            program.dispatch(name,
                             load.texels ? ShaderId::split_heads_private : ShaderId::split_heads,
                             constants,
                             {load(read_rows(input, first, rows)), target,
                              optional(transform.norm_weight), optional(transform.rope_table),
                              order.table().valid() ? program::read(order.table())
                                                    : program::unused(input.tensor)},
                             shaders::split_heads::Push{.heads = u32(heads),
                                                        .first_head = u32(head),
                                                        .columns = u32(out.heads * out.head_dim),
                                                        .head_dim = u32(out.head_dim),
                                                        .padded_dim = u32(out.padded_dim),
                                                        .in_stride = u32(input.stride),
                                                        .token_stride = u32(out.token_stride),
                                                        .token_base = u32(first),
                                                        .grid_rows = u32(transform.grid[0]),
                                                        .grid_columns = u32(transform.grid[1]),
                                                        .pairs_time = u32(transform.pairs[0]),
                                                        .pairs_row = u32(transform.pairs[1]),
                                                        .eps = transform.eps,
                                                        .places = u32(order.tokens_per_frame),
                                                        .text = u32(order.text_in_front),
                                                        .rows = u32(rows)},
                             {load.texels ? ceil_div(u32(rows), lanes) : u32(rows), 1, 1},
                             10.0 * rows * input.columns);
        }
    }
}

}  // namespace quantsparse::kernels
