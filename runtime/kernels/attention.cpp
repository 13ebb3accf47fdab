#include "kernels/attention.hpp"

#include <algorithm>
#include <shaders/attention_tiled.hpp>

#include "kernels/attention_kernel.hpp"
#include "kernels/loads.hpp"
#include "kernels/merge_heads.hpp"

namespace quantsparse::kernels {
namespace {

/// Rows of the tensor from `out`'s first to the last of `masked`.
int rows_of_both(const Matrix& out, const Matrix& masked) {
    return masked.first_row + masked.rows - out.first_row;
}

/// Heads first .. first+count-1.
program::Binding operand(const AttentionPass::Operand& m, int first, int count, bool texels) {
    return Loads{texels}(program::read(m.tensor, m.head_bytes * static_cast<std::uint64_t>(first),
                                       m.head_bytes * static_cast<std::uint64_t>(count)));
}

/// What a chunk of heads and rows binds. `target`: where its results go.
std::vector<program::Binding> bindings_of(const AttentionCall& call, const AttentionPass& pass,
                                          int head, int heads, int first, int rows,
                                          const program::Binding& target) {
    using program::read;
    std::vector<program::Binding> bindings = {
        operand(pass.q, head, heads, pass.texels), operand(pass.k, head, heads, pass.texels),
        operand(pass.v, head, heads, pass.texels), target, pass.bias};
    if (const BlockList* blocks = call.options.blocks) {
        bindings.insert(
            bindings.end(),
            {read(blocks->row_ptr), read(blocks->columns), read(blocks->sight),
             call.ordered ? read(call.options.order.head_types) : program::unused(call.q.tensor)});
        append_residual(bindings, call.residual, call.q.tensor, first, rows, pass.texels);
        if (call.sums.valid()) bindings.push_back(program::write(call.sums));
    }
    return bindings;
}

shaders::attention_tiled::Push push_of(const AttentionCall& call, int head, int heads, int first,
                                       int rows) {
    const AttentionOptions& options = call.options;
    const bool last_heads = head + heads == call.q.heads;
    return {
        .queries = u32(rows),
        .query_base = u32(first),
        .keys = u32(call.keys),
        .q_stride = u32(call.q.token_stride),
        .kv_stride = u32(call.k.token_stride),
        .head_dim = u32(call.q.head_dim),
        .out_stride = u32(call.out.stride),
        .first_head = u32(head),
        .bias_span = u32(options.bias_span),
        .scale = options.scale,
        .pad_to = last_heads && !call.head_major ? u32(call.out.stride - call.out.columns) : 0,
        .list_stride =
            options.blocks && options.blocks->lists > 1 ? u32(options.blocks->query_blocks + 1) : 0,
        .places = u32(options.order.tokens_per_frame),
        .text = u32(options.order.text_in_front),
        .frames = u32(options.order.frames),
        .masked_base = options.masked
                           ? u32((options.masked->first_row - call.out.first_row) * call.out.stride)
                           : 0,
    };
}

}  // namespace

int default_block(const program::Limits& limits, int tokens) {
    if (limits.runs_on_cpu) return 32;
    return limits.arithmetic == Arithmetic::matrix && tokens >= 4096 ? 128 : 64;
}

bool attends_both(const Program& program, const Matrix& out, const Matrix& masked,
                  AttentionProducts products) {
    const bool units =
        program.limits().arithmetic == Arithmetic::matrix && products == AttentionProducts::full;
    return !units && out.tensor.id == masked.tensor.id && out.stride == masked.stride &&
           out.rows == masked.rows && masked.first_row >= out.first_row + out.rows &&
           static_cast<std::uint64_t>(rows_of_both(out, masked)) * out.row_bytes() <=
               program.limits().max_binding_bytes;
}

const AttentionKernel& attention_kernel(const program::Limits& limits, const AttentionCall& call) {
    for (const AttentionKernel* kernel : {&attention_matrix(), &attention_private()}) {
        if (kernel->fits(limits, call)) return *kernel;
    }
    return attention_tiled();
}

void attention(Program& program, const std::string& name, const HeadMatrix& q, const HeadMatrix& k,
               const HeadMatrix& v, const Matrix& out, const AttentionOptions& options) {
    using program::read;
    const Residual* correction = options.residual;
    const int row_chunk =
        rows_per_dispatch(program, std::max(out.row_bytes(), row_bytes(correction)), out.rows);
    AttentionCall call{q, k, v, out, options};
    call.keys = options.keys ? options.keys : k.tokens;
    call.texels = loads(program, {read(q.tensor), read(k.tensor), read(v.tensor)},
                        {correction ? correction->rows : Tensor{},
                         correction ? correction->u.tensor : Tensor{},
                         correction ? correction->v.tensor : Tensor{}})
                      .texels;
    call.ordered = options.blocks && options.order.head_types.valid();
    // Heads that go place by place write all over `out`. Where that can't be bound at once, or
    // their order is one that the kernel doesn't know, they keep it first.
    call.head_major = (call.ordered && (row_chunk < out.rows || options.order.first_frame_apart)) ||
                      (options.blocks && (options.order.positions.valid() || options.tail));
    call.residual = call.head_major ? nullptr : correction;
    if (options.tail) {
        call.sums = program.add(name + ".sums", static_cast<std::uint64_t>(q.heads) *
                                                    static_cast<std::uint64_t>(q.token_stride) * 4);
    }
    const AttentionPass pass =
        attention_kernel(program.limits(), call).prepare(program, name, call);
    const HeadMatrix own =
        call.head_major ? add_head_matrix(program, name + ".heads", q.heads, q.tokens, q.head_dim)
                        : HeadMatrix{};
    const int head_chunk =
        heads_per_dispatch(program, std::max(q.head_bytes(), k.head_bytes()), q.heads);
    const int step = call.head_major ? out.rows : row_chunk;
    for (int head = 0; head < q.heads; head += head_chunk) {
        const int heads = std::min(head_chunk, q.heads - head);
        for (int first = 0; first < out.rows; first += step) {
            const int rows = std::min(step, out.rows - first);
            const program::Binding target =
                options.masked    ? write_rows(out, 0, rows_of_both(out, *options.masked))
                : call.head_major ? write_heads(own, head, heads)
                                  : write_rows(out, first, rows);
            program.dispatch(
                name, pass.shader, pass.constants,
                bindings_of(call, pass, head, heads, first, rows, target),
                push_of(call, head, heads, first, rows),
                {ceil_div(static_cast<std::uint64_t>(rows), pass.queries), u32(heads), 1},
                4.0 * rows * call.keys * q.padded_dim * heads *
                    (options.blocks ? options.blocks->density : 1.0),
                pass.cuts);
        }
    }
    if (options.tail) join_tail(program, name + ".tail", call, own);
    if (call.head_major) {
        merge_heads(program, name + ".merge", own, out, options.order, correction);
    }
}

}  // namespace quantsparse::kernels
