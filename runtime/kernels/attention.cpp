#include "kernels/attention.hpp"

#include <algorithm>

#include "kernels/attention_codes.hpp"
#include "kernels/loads.hpp"
#include "kernels/matrix_tiles.hpp"

namespace quantsparse::kernels {
namespace {

struct Push {
    std::uint32_t queries, query_base, keys, q_stride, kv_stride, head_dim, out_stride, first_head,
        bias_span;
    float scale;
    std::uint32_t pad_to, list_stride, places, frames, masked_base;
};
static_assert(sizeof(Push) == 60, "attention.comp declares the same block");

struct MergePush {
    std::uint32_t heads, first_head, head_dim, padded_dim, token_stride, out_stride, first_row,
        places, pad_to;
};
static_assert(sizeof(MergePush) == 36, "merge_heads.comp declares the same block");

struct PackPush {
    std::uint32_t fours, each;
};
static_assert(sizeof(PackPush) == 8, "pack_halves.comp declares the same block");

/// How a call is run: which kernel, lanes of a work-group, queries.
struct Shape {
    bool is_private =
        false;  ///< attention_private.comp: `queries` of each invocation, else of the group
    std::uint32_t lanes = 32;
    std::uint32_t queries = 8;
    int unit_dim = 0;         ///< matrix/attention_matrix.comp, for heads of so many columns
    std::uint32_t teams = 1;  ///< of `lanes`, each with `queries` of its own: attention.comp
    bool texels = false;      ///< how a private kernel reads
    bool codes = false;       ///< attention.comp on codes
    bool dot = false;         ///< their products in the dot tier
    std::uint32_t group_queries() const { return is_private ? lanes * queries : queries * teams; }
    std::uint32_t group_lanes() const { return lanes * teams; }
    shaders::ShaderId shader(bool sparse, bool both) const {
        using shaders::ShaderId;
        if (unit_dim == 64) {
            return sparse ? ShaderId::attention_matrix_sparse_64
                          : ShaderId::attention_matrix_dense_64;
        }
        if (unit_dim) {
            return sparse ? ShaderId::attention_matrix_sparse_128
                          : ShaderId::attention_matrix_dense_128;
        }
        if (is_private) return private_shader(sparse, both);
        if (codes) return code_shader(sparse, both);
        if (both) return ShaderId::attention_both;
        return sparse ? ShaderId::attention_sparse : ShaderId::attention_dense;
    }

  private:
    shaders::ShaderId code_shader(bool sparse, bool both) const {
        using shaders::ShaderId;
        if (both)
            return dot ? ShaderId::attention_both_int8_dot : ShaderId::attention_both_int8_portable;
        if (sparse)
            return dot ? ShaderId::attention_sparse_int8_dot
                       : ShaderId::attention_sparse_int8_portable;
        return dot ? ShaderId::attention_dense_int8_dot : ShaderId::attention_dense_int8_portable;
    }
    shaders::ShaderId private_shader(bool sparse, bool both) const {
        using shaders::ShaderId;
        if (both) {
            return texels ? ShaderId::attention_private_both_texels
                          : ShaderId::attention_private_both;
        }
        if (sparse) {
            return texels ? ShaderId::attention_private_sparse_texels
                          : ShaderId::attention_private_sparse;
        }
        return texels ? ShaderId::attention_private_dense_texels
                      : ShaderId::attention_private_dense;
    }
};

/// Invocations of a work-group of attention.comp on GPUs.
constexpr std::uint32_t kFullGroup = 64;

/// Wider heads would unroll into too much code.
constexpr int kWidestPrivate = 128;

/// SwiftShader compiles it for a second or two in each process.
constexpr int kFewestPrivateKeys = 512;

/// Queries of an invocation, whose outputs have names of their own there.
constexpr std::uint32_t kPrivateQueries = 4;

/// Subgroups of a work-group that share the tiles of attention_matrix.comp.
constexpr std::uint32_t kUnitSubgroups = 8;

/// Whether the matrix units can do a call: there are modules for heads of 64 and 128 columns, and
/// the lanes that share a row of 32 scores take eight at least.
bool uses_units(const Program& program, const HeadMatrix& q, const Matrix& out,
                const AttentionOptions& options) {
    const program::Limits& limits = program.limits();
    const MatrixShape& shape = limits.matrix_half;
    return limits.arithmetic == Arithmetic::matrix && shape.n == 16 && shape.k == 16 &&
           limits.subgroup <= 4 * shape.m && (q.head_dim == 64 || q.head_dim == 128) &&
           !options.bias.valid() && options.products == AttentionProducts::full &&
           out.stride == out.columns && q.tokens >= kFewestMatrixRows;
}

Shape unit_shape(const program::Limits& limits, int head_dim, int block) {
    const std::uint32_t rows = limits.matrix_half.m;
    std::uint32_t subgroups = std::min(kUnitSubgroups, limits.max_invocations / limits.subgroup);
    if (block) subgroups = std::min(subgroups, static_cast<std::uint32_t>(block) / rows);
    return {false, subgroups * limits.subgroup, subgroups * rows, head_dim};
}

/// The same values as halves, 0.5 times as many bytes at 0.5 times the offsets.
Tensor pack_halves(Program& program, const std::string& name, const HeadMatrix& m) {
    constexpr std::uint32_t kLanes = 256, kEach = 4;
    const Tensor halves =
        program.add(name, m.head_bytes() / 2 * static_cast<std::uint64_t>(m.heads));
    const std::uint64_t fours = m.head_bytes() / 16;
    const int chunk = static_cast<int>(
        std::clamp<std::uint64_t>(std::min(program.limits().max_binding_bytes / m.head_bytes(),
                                           std::uint64_t{65535} * kLanes * kEach / fours),
                                  1, static_cast<std::uint64_t>(m.heads)));
    const std::uint32_t lanes = std::min(kLanes, program.limits().max_invocations);
    for (int head = 0; head < m.heads; head += chunk) {
        const std::uint64_t count = static_cast<std::uint64_t>(std::min(chunk, m.heads - head));
        const std::uint64_t from = m.head_bytes() * static_cast<std::uint64_t>(head);
        program.dispatch(name, shaders::ShaderId::pack_halves, {lanes},
                         {program::read(m.tensor, from, m.head_bytes() * count),
                          program::write(halves, from / 2, m.head_bytes() / 2 * count)},
                         PackPush{static_cast<std::uint32_t>(fours * count), kEach},
                         {ceil_div(fours * count, std::uint64_t{lanes} * kEach), 1, 1},
                         4.0 * static_cast<double>(fours * count));
    }
    return halves;
}

/// `codes`: of eight bits; only the kernel whose work-groups share tiles takes them.
Shape shape_for(const Program& program, int padded_dim, int keys, int block, bool texels,
                bool codes) {
    const bool pays = !codes && (texels || keys >= kFewestPrivateKeys);
    if (program.limits().runs_on_cpu && pays && padded_dim <= kWidestPrivate) {
        return {true, kPrivateLanes, kPrivateQueries, 0, 1, texels};
    }
    // CPU drivers run the lanes of a narrow group as one vector. 8 queries took 147 ms a call on
    // llvmpipe (972 tokens, 3 heads of 64), 16 took 228: their sums spill. Very wide heads keep
    // fewer still.
    std::uint32_t lanes = program.limits().runs_on_cpu ? 8 : 32;
    // A tile is 4 keys a lane and doesn't pass a block's end.
    if (block) lanes = std::min(lanes, static_cast<std::uint32_t>(block) / 4);
    // On GPUs the sums and scores of eight queries fill the registers where a lane owns more than
    // one vec4 of the output: 9 spilled on gfx1100 in sparse attention, heads of 128, blocks of 64.
    const bool few =
        program.limits().runs_on_cpu ? padded_dim > 128 : padded_dim > 4 * static_cast<int>(lanes);
    const std::uint32_t queries = few ? 4 : 8;
    // AMD's subgroups of 64 idle in narrower groups. All of a group's queries lie in one block.
    std::uint32_t teams = 1;
    if (!program.limits().runs_on_cpu) {
        teams = std::min(kFullGroup, program.limits().max_invocations) / lanes;
        if (block) teams = std::min(teams, static_cast<std::uint32_t>(block) / queries);
    }
    const program::Limits& limits = program.limits();
    const bool dot = limits.arithmetic == Arithmetic::dot ||
                     (limits.arithmetic == Arithmetic::matrix && limits.has_dot);
    return {false, lanes, queries, 0, std::max(teams, 1u), false, codes, dot};
}

int heads_per_dispatch(const Program& program, std::uint64_t head_bytes, int heads) {
    return static_cast<int>(std::clamp<std::uint64_t>(
        program.limits().max_binding_bytes / head_bytes, 1, static_cast<std::uint64_t>(heads)));
}

constexpr int kMaxRows = 65535 / 64 * 64;  // one work-group a row

/// In the place of Residual::bindings.
std::vector<program::Binding> no_residual(Tensor any, bool texels) {
    std::vector<program::Binding> bindings(5, program::unused(any));
    bindings[0].texels = bindings[1].texels = bindings[2].texels = texels;
    return bindings;
}

void merge_heads(Program& program, const std::string& name, const HeadMatrix& heads,
                 const Matrix& out, const AttentionOptions& options) {
    using program::read;
    const Residual* residual = options.residual;
    const std::uint64_t widest =
        std::max(out.row_bytes(), residual ? residual->row_bytes() : std::uint64_t{0});
    const int row_chunk = std::min(kMaxRows, rows_per_dispatch(program, widest, out.rows));
    const int head_chunk = heads_per_dispatch(program, heads.head_bytes(), heads.heads);
    std::vector<std::uint32_t> constants =
        residual ? residual->constants() : std::vector<std::uint32_t>{0, 1, 0, 0, 1, 4};
    constants.insert(constants.begin(), row_lanes(program));
    constants.push_back(static_cast<std::uint32_t>(options.order.frames));
    constants.push_back(options.order.first_frame_apart);
    for (int head = 0; head < heads.heads; head += head_chunk) {
        const int count = std::min(head_chunk, heads.heads - head);
        const bool last = head + count == heads.heads;
        for (int first = 0; first < out.rows; first += row_chunk) {
            const int rows = std::min(row_chunk, out.rows - first);
            std::vector<program::Binding> bindings = {
                read(heads.tensor, heads.head_bytes() * static_cast<std::uint64_t>(head),
                     heads.head_bytes() * static_cast<std::uint64_t>(count)),
                write_rows(out, first, rows), read(options.order.head_types)};
            const auto more =
                residual ? residual->bindings(first, rows) : no_residual(heads.tensor, false);
            bindings.insert(bindings.end(), more.begin(), more.end());
            program.dispatch(
                name, shaders::ShaderId::merge_heads, constants, bindings,
                MergePush{static_cast<std::uint32_t>(count), static_cast<std::uint32_t>(head),
                          static_cast<std::uint32_t>(heads.head_dim),
                          static_cast<std::uint32_t>(heads.padded_dim),
                          static_cast<std::uint32_t>(heads.token_stride),
                          static_cast<std::uint32_t>(out.stride), static_cast<std::uint32_t>(first),
                          static_cast<std::uint32_t>(options.order.tokens_per_frame),
                          last ? static_cast<std::uint32_t>(out.stride - out.columns) : 0},
                {static_cast<std::uint32_t>(rows), 1, 1}, 4.0 * rows * count * heads.padded_dim);
        }
    }
}

/// Rows of the tensor from `out`'s first to the last of `masked`.
int rows_of_both(const Matrix& out, const Matrix& masked) {
    return masked.first_row + masked.rows - out.first_row;
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

void attention(Program& program, const std::string& name, const HeadMatrix& q, const HeadMatrix& k,
               const HeadMatrix& v, const Matrix& out, const AttentionOptions& options) {
    using program::read;
    using program::unused;
    const BlockList* blocks = options.blocks;
    const bool ordered = blocks && options.order.head_types.valid();
    const int keys = options.keys ? options.keys : k.tokens;
    const int head_chunk =
        heads_per_dispatch(program, std::max(q.head_bytes(), k.head_bytes()), q.heads);
    const Residual* correction = options.residual;
    const Loads operands = loads(
        program, {read(q.tensor), read(k.tensor), read(v.tensor)},
        {correction ? correction->rows : Tensor{}, correction ? correction->u.tensor : Tensor{},
         correction ? correction->v.tensor : Tensor{}});
    const bool units = uses_units(program, q, out, options);
    const bool coded = options.products != AttentionProducts::full;
    const Shape shape = units ? unit_shape(program.limits(), q.head_dim, blocks ? blocks->block : 0)
                              : shape_for(program, q.padded_dim, keys, blocks ? blocks->block : 0,
                                          operands.texels, coded);
    const AttentionCodes codes =
        coded
            ? quantize_operands(program, name, q, k, v,
                                {options.scale, keys, options.products == AttentionProducts::int8})
            : AttentionCodes{};
    const Tensor halves[] = {units ? pack_halves(program, name + ".q_halves", q) : Tensor{},
                             units ? pack_halves(program, name + ".k_halves", k) : Tensor{},
                             units ? pack_halves(program, name + ".v_halves", v) : Tensor{}};
    const std::uint64_t widest = std::max(
        out.row_bytes(), options.residual ? options.residual->row_bytes() : std::uint64_t{0});
    const int row_chunk = rows_per_dispatch(program, widest, out.rows);
    // Heads that go place by place write all over `out`. Where that can't be bound at once, or
    // their order is one that the kernel doesn't know, they keep it first.
    const bool head_major = ordered && (row_chunk < out.rows || options.order.first_frame_apart);
    const HeadMatrix own =
        head_major ? add_head_matrix(program, name + ".heads", q.heads, q.tokens, q.head_dim)
                   : HeadMatrix{};
    const Residual* residual = head_major ? nullptr : options.residual;
    std::vector<std::uint32_t> constants = {shape.group_lanes(),
                                            static_cast<std::uint32_t>(q.padded_dim / 4),
                                            options.bias.valid(), shape.lanes, shape.queries};
    if (blocks) {
        constants.push_back(static_cast<std::uint32_t>(blocks->block));
        constants.push_back(ordered);
        const auto more =
            residual ? residual->constants() : std::vector<std::uint32_t>{0, 1, 0, 0, 1, 4};
        constants.insert(constants.end(), more.begin(), more.end());
        constants.push_back(head_major);
    }
    if (!units && !shape.is_private) {
        constants.resize(15);
        constants.push_back(shape.teams);
        if (coded) constants.push_back(codes.v.valid());
    }
    if (units) {
        constants.resize(14);  // the dense kernel has none of the list's and the correction's
        constants.push_back(program.limits().matrix_half.m);
        constants.push_back(program.limits().subgroup);
    }
    for (int head = 0; head < q.heads; head += head_chunk) {
        const int heads = std::min(head_chunk, q.heads - head);
        const auto bind = [&](const HeadMatrix& m) {
            return read(m.tensor, m.head_bytes() * static_cast<std::uint64_t>(head),
                        m.head_bytes() * static_cast<std::uint64_t>(heads));
        };
        const Loads load{shape.texels};
        const auto operand = [&](const HeadMatrix& m, Tensor packed, Tensor code) {
            if (!units && !code.valid()) return load(bind(m));
            const std::uint64_t bytes = units ? m.head_bytes() / 2 : codes.head_bytes(m);
            return read(units ? packed : code, bytes * static_cast<std::uint64_t>(head),
                        bytes * static_cast<std::uint64_t>(heads));
        };
        const bool last_heads = head + heads == q.heads;
        const int step = head_major ? out.rows : row_chunk;
        for (int first = 0; first < out.rows; first += step) {
            const int rows = std::min(step, out.rows - first);
            program::Binding target = head_major ? bind(own) : write_rows(out, first, rows);
            if (head_major) std::swap(target.reads, target.writes);
            if (options.masked) target = write_rows(out, 0, rows_of_both(out, *options.masked));
            std::vector<program::Binding> bindings = {operand(q, halves[0], codes.q),
                                                      operand(k, halves[1], codes.k),
                                                      operand(v, halves[2], codes.v), target,
                                                      options.bias.valid() ? read(options.bias)
                                                      : coded              ? read(codes.scales)
                                                                           : unused(q.tensor)};
            if (blocks) {
                bindings.insert(bindings.end(),
                                {read(blocks->row_ptr), read(blocks->columns), read(blocks->sight),
                                 ordered ? read(options.order.head_types) : unused(q.tensor)});
                const auto more = residual ? residual->bindings(first, rows, false, shape.texels)
                                           : no_residual(q.tensor, shape.texels);
                bindings.insert(bindings.end(), more.begin(), more.end());
            }
            program.dispatch(
                name, shape.shader(blocks != nullptr, options.masked != nullptr), constants,
                bindings,
                Push{static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(first),
                     static_cast<std::uint32_t>(keys), static_cast<std::uint32_t>(q.token_stride),
                     static_cast<std::uint32_t>(k.token_stride),
                     static_cast<std::uint32_t>(q.head_dim), static_cast<std::uint32_t>(out.stride),
                     static_cast<std::uint32_t>(head),
                     static_cast<std::uint32_t>(options.bias_span), options.scale,
                     last_heads && !head_major
                         ? static_cast<std::uint32_t>(out.stride - out.columns)
                         : 0,
                     blocks && blocks->lists > 1
                         ? static_cast<std::uint32_t>(blocks->query_blocks + 1)
                         : 0,
                     static_cast<std::uint32_t>(options.order.tokens_per_frame),
                     static_cast<std::uint32_t>(options.order.frames),
                     options.masked ? static_cast<std::uint32_t>(
                                          (options.masked->first_row - out.first_row) * out.stride)
                                    : 0},
                {ceil_div(static_cast<std::uint64_t>(rows), shape.group_queries()),
                 static_cast<std::uint32_t>(heads), 1},
                4.0 * rows * keys * q.padded_dim * heads * (blocks ? blocks->density : 1.0),
                // The last head, y, writes the padding: on matrix units there is none.
                program::Cuts{true, units, true});
        }
    }
    if (head_major) merge_heads(program, name + ".merge", own, out, options);
}

}  // namespace quantsparse::kernels
