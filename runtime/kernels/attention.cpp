#include "kernels/attention.hpp"

namespace quantsparse::kernels {
namespace {

struct Push {
    std::uint32_t queries, query_base, keys, q_stride, kv_stride, head_dim, out_stride, first_head,
        bias_span;
    float scale;
    std::uint32_t pad_to;
};
static_assert(sizeof(Push) == 44, "attention_dense.comp declares the same block");

/// Lanes of a work-group and queries it owns (attention_dense.comp).
struct Shape {
    std::uint32_t lanes, queries;
};

Shape shape_for(const Program& program, int padded_dim) {
    // CPU drivers run the lanes of a narrow group as one vector. 8 queries took 147 ms a call on
    // llvmpipe (972 tokens, 3 heads of 64), 16 took 228: their sums spill. Very wide heads keep
    // fewer still.
    const std::uint32_t lanes = program.limits().runs_on_cpu ? 8 : 32;
    return {lanes, padded_dim > 128 ? 4u : 8u};
}

}  // namespace

void attention_dense(Program& program, const std::string& name, const HeadMatrix& q,
                     const HeadMatrix& k, const HeadMatrix& v, const Matrix& out,
                     const AttentionOptions& options) {
    using program::read;
    const Shape shape = shape_for(program, q.padded_dim);
    const int keys = options.keys ? options.keys : k.tokens;
    const std::uint64_t head_bytes = std::max(q.head_bytes(), k.head_bytes());
    const int head_chunk = static_cast<int>(std::max<std::uint64_t>(
        1, std::min<std::uint64_t>(program.limits().max_binding_bytes / head_bytes,
                                   static_cast<std::uint64_t>(q.heads))));
    const int row_chunk = rows_per_dispatch(program, out.row_bytes(), out.rows);
    for (int head = 0; head < q.heads; head += head_chunk) {
        const int heads = std::min(head_chunk, q.heads - head);
        const auto bind = [&](const HeadMatrix& m) {
            return read(m.tensor, m.head_bytes() * static_cast<std::uint64_t>(head),
                        m.head_bytes() * static_cast<std::uint64_t>(heads));
        };
        const bool last_heads = head + heads == q.heads;
        for (int first = 0; first < out.rows; first += row_chunk) {
            const int rows = std::min(row_chunk, out.rows - first);
            program.dispatch(
                name, shaders::ShaderId::attention_dense,
                {shape.lanes, static_cast<std::uint32_t>(q.padded_dim / 4), options.bias.valid(),
                 shape.lanes, shape.queries},
                {bind(q), bind(k), bind(v), write_rows(out, first, rows),
                 options.bias.valid() ? read(options.bias) : program::unused(q.tensor)},
                Push{static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(first),
                     static_cast<std::uint32_t>(keys), static_cast<std::uint32_t>(q.token_stride),
                     static_cast<std::uint32_t>(k.token_stride),
                     static_cast<std::uint32_t>(q.head_dim), static_cast<std::uint32_t>(out.stride),
                     static_cast<std::uint32_t>(head),
                     static_cast<std::uint32_t>(options.bias_span), options.scale,
                     last_heads ? static_cast<std::uint32_t>(out.stride - out.columns) : 0},
                {ceil_div(static_cast<std::uint64_t>(rows), shape.queries),
                 static_cast<std::uint32_t>(heads), 1},
                4.0 * rows * keys * q.padded_dim * heads);
        }
    }
}

}  // namespace quantsparse::kernels
