#include "kernels/merge_heads.hpp"

#include <algorithm>
#include <shaders/merge_heads.hpp>

#include "kernels/specialization.hpp"

namespace quantsparse::kernels {

void merge_heads(Program& program, const std::string& name, const HeadMatrix& heads,
                 const Matrix& out, const TokenOrder& order, const Residual* residual) {
    using Constant = shaders::merge_heads::Constant;
    Specialization<Constant> constants(row_lanes(program));
    constants.set_from(Constant::residual, residual_constants(residual));
    constants.set(Constant::frames, u32(order.frames));
    constants.set(Constant::frame0_apart, order.first_frame_apart);
    constants.set(Constant::positions, order.positions.valid());
    constants.set(Constant::types, order.head_types.valid());
    const program::Binding table =
        order.table().valid() ? program::read(order.table()) : program::unused(heads.tensor);
    const std::uint64_t widest = std::max(out.row_bytes(), row_bytes(residual));
    const int row_chunk = std::min(kMaxRows, rows_per_dispatch(program, widest, out.rows));
    const int head_chunk = heads_per_dispatch(program, heads.head_bytes(), heads.heads);
    for (int head = 0; head < heads.heads; head += head_chunk) {
        const int count = std::min(head_chunk, heads.heads - head);
        const bool last = head + count == heads.heads;
        for (int first = 0; first < out.rows; first += row_chunk) {
            const int rows = std::min(row_chunk, out.rows - first);
            std::vector<program::Binding> bindings = {read_heads(heads, head, count),
                                                      write_rows(out, first, rows), table};
            append_residual(bindings, residual, heads.tensor, first, rows, false);
            program.dispatch(name, shaders::ShaderId::merge_heads, constants, bindings,
                             shaders::merge_heads::Push{
                                 .heads = u32(count),
                                 .first_head = u32(head),
                                 .head_dim = u32(heads.head_dim),
                                 .padded_dim = u32(heads.padded_dim),
                                 .token_stride = u32(heads.token_stride),
                                 .out_stride = u32(out.stride),
                                 .first_row = u32(first),
                                 .places = u32(order.tokens_per_frame),
                                 .text = u32(order.text_in_front),
                                 .pad_to = last ? u32(out.stride - out.columns) : 0,
                             },
                             {u32(rows), 1, 1}, 4.0 * rows * count * heads.padded_dim);
        }
    }
}

}  // namespace quantsparse::kernels
