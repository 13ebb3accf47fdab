#include "kernels/rows.hpp"

#include <fmt/format.h>

#include "kernels/loads.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

struct NormPush {
    std::uint32_t columns, stride, shift_offset, scale_offset;
    float eps;
    std::uint32_t site, rows;
};
static_assert(sizeof(NormPush) == 28, "norm_rows.comp and norm_rows_private.comp declare the same");

struct SplitPush {
    std::uint32_t heads, first_head, columns, head_dim, padded_dim, in_stride, token_stride,
        token_base, grid_rows, grid_columns, pairs_time, pairs_row;
    float eps;
    std::uint32_t places, rows;
};
static_assert(sizeof(SplitPush) == 60, "split_heads*.comp declare the same block");

constexpr int kMaxRows = 65535 / 64 * 64;  // one work-group a row
using shaders::ShaderId;

/// Of chunks of the rows and whatever else is there.
Loads row_loads(const Program& program, const Matrix& input, bool whole_vec4,
                std::initializer_list<Tensor> tensors) {
    const int chunk =
        std::min(input.rows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    Loads load = loads(program, {read_rows(input, 0, chunk)}, tensors);
    load.texels = load.texels && whole_vec4;
    return load;
}

}  // namespace

void normalize_rows(Program& program, const std::string& name, const Matrix& input,
                    const Matrix& out, const Norm& norm) {
    using program::read;
    const Loads load = row_loads(
        program, input,
        input.columns % 4 == 0 && norm.shift_offset % 4 == 0 && norm.scale_offset % 4 == 0,
        {norm.weight, norm.bias, norm.modulation});
    const auto optional = [&](Tensor t) { return load.optional(t, input.tensor); };
    const std::uint32_t lanes = load.texels ? kPrivateLanes : row_lanes(program);
    const int chunk = std::min(kMaxRows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    for (int first = 0; first < input.rows; first += chunk) {
        const int rows = std::min(chunk, input.rows - first);
        program.dispatch(
            name, load.texels ? ShaderId::norm_rows_private : ShaderId::norm_rows,
            {lanes, static_cast<std::uint32_t>(norm.kind), norm.weight.valid(), norm.bias.valid(),
             norm.modulation.valid(), norm.watch.valid()},
            {load(read_rows(input, first, rows)), write_rows(out, first, rows),
             optional(norm.weight), optional(norm.bias), optional(norm.modulation),
             norm.watch.valid() ? program::read_write(norm.watch) : unused(input.tensor)},
            NormPush{static_cast<std::uint32_t>(input.columns),
                     static_cast<std::uint32_t>(input.stride),
                     static_cast<std::uint32_t>(norm.shift_offset),
                     static_cast<std::uint32_t>(norm.scale_offset), norm.eps,
                     static_cast<std::uint32_t>(norm.site), static_cast<std::uint32_t>(rows)},
            {load.texels ? ceil_div(static_cast<std::uint64_t>(rows), lanes)
                         : static_cast<std::uint32_t>(rows),
             1, 1},
            12.0 * rows * input.columns);
    }
}

HeadMatrix add_head_matrix(Program& program, const std::string& name, int heads, int tokens,
                           int head_dim, program::Lifetime lifetime) {
    HeadMatrix out{{}, heads, tokens, head_dim, round_up(head_dim, 4), round_up(tokens, 16)};
    out.tensor = program.add(name, out.head_bytes() * static_cast<std::uint64_t>(heads), lifetime);
    return out;
}

void split_heads(Program& program, const std::string& name, const Matrix& input,
                 const HeadMatrix& out, const HeadTransform& transform) {
    using program::read;
    if (transform.order.head_types.valid() && input.rows > TokenOrder::kMostTokens) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{}: heads of two orders hold {} tokens at most, not {}: make the "
                                "clip smaller or attention dense",
                                name, TokenOrder::kMostTokens, input.rows));
    }
    const Loads load = row_loads(program, input, out.head_dim % 4 == 0,
                                 {transform.norm_weight, transform.rope_table});
    const auto optional = [&](Tensor t) { return load.optional(t, input.tensor); };
    const std::uint32_t lanes = load.texels ? kPrivateLanes : row_lanes(program);
    const int head_chunk = static_cast<int>(std::max<std::uint64_t>(
        1, std::min<std::uint64_t>(program.limits().max_binding_bytes / out.head_bytes(),
                                   static_cast<std::uint64_t>(out.heads))));
    const int row_chunk =
        std::min(kMaxRows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    for (int head = 0; head < out.heads; head += head_chunk) {
        const int heads = std::min(head_chunk, out.heads - head);
        const std::uint64_t at = out.head_bytes() * static_cast<std::uint64_t>(head);
        const std::uint64_t bytes = out.head_bytes() * static_cast<std::uint64_t>(heads);
        for (int first = 0; first < input.rows; first += row_chunk) {
            const int rows = std::min(row_chunk, input.rows - first);
            program.dispatch(
                name, load.texels ? ShaderId::split_heads_private : ShaderId::split_heads,
                {lanes, transform.norm_weight.valid(), transform.rope_table.valid(),
                 transform.order.head_types.valid()
                     ? static_cast<std::uint32_t>(transform.order.frames)
                     : 0,
                 transform.order.first_frame_apart, transform.only_temporal},
                {load(read_rows(input, first, rows)),
                 transform.only_temporal ? program::read_write(out.tensor, at, bytes)
                                         : program::write(out.tensor, at, bytes),
                 optional(transform.norm_weight), optional(transform.rope_table),
                 transform.order.head_types.valid() ? read(transform.order.head_types)
                                                    : program::unused(input.tensor)},
                SplitPush{static_cast<std::uint32_t>(heads), static_cast<std::uint32_t>(head),
                          static_cast<std::uint32_t>(out.heads * out.head_dim),
                          static_cast<std::uint32_t>(out.head_dim),
                          static_cast<std::uint32_t>(out.padded_dim),
                          static_cast<std::uint32_t>(input.stride),
                          static_cast<std::uint32_t>(out.token_stride),
                          static_cast<std::uint32_t>(first),
                          static_cast<std::uint32_t>(transform.grid[0]),
                          static_cast<std::uint32_t>(transform.grid[1]),
                          static_cast<std::uint32_t>(transform.pairs[0]),
                          static_cast<std::uint32_t>(transform.pairs[1]), transform.eps,
                          static_cast<std::uint32_t>(transform.order.tokens_per_frame),
                          static_cast<std::uint32_t>(rows)},
                {load.texels ? ceil_div(static_cast<std::uint64_t>(rows), lanes)
                             : static_cast<std::uint32_t>(rows),
                 1, 1},
                10.0 * rows * input.columns);
        }
    }
}

}  // namespace quantsparse::kernels
