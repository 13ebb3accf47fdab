#include "kernels/copy.hpp"

#include <shaders/elementwise.hpp>
#include <shaders/permute.hpp>

#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

enum class Operation : std::uint32_t {
    add = 0,
    silu = 1,
    scale_channels = 2,
    copy = 3,
    subtract = 4
};

/// One invocation an element, in two group dimensions: one alone may be limited to 65,535 groups.
std::array<std::uint32_t, 3> groups_for(std::uint64_t count, std::uint32_t lanes) {
    const std::uint32_t groups = ceil_div(count, lanes);
    const std::uint32_t x = std::min(groups, 32768u);
    return {x, ceil_div(groups, x), 1};
}

/// Elements lie in order: y * gl_NumWorkGroups.x + x.
program::Cuts cuts_for(const std::array<std::uint32_t, 3>& groups) {
    return {groups[1] == 1, true, true};
}

std::uint32_t lanes_of(const Program& program) {
    return program.limits().runs_on_cpu ? 32 : 64;
}

void elementwise(Program& program, const std::string& name, Operation operation, program::Binding a,
                 program::Binding b, program::Binding c, program::Binding out,
                 const shaders::elementwise::Push& push) {
    using Constant = shaders::elementwise::Constant;
    const auto groups = groups_for(push.count, lanes_of(program));
    program.dispatch(
        name, shaders::ShaderId::elementwise,
        Specialization<Constant>(lanes_of(program),
                                 {{Constant::operation, static_cast<std::uint32_t>(operation)}}),
        {a, b, c, out}, push, groups, 8.0 * push.count, cuts_for(groups));
}

/// All elements of matrices of one shape, padding included, as many rows at a time as can be bound.
void on_rows(Program& program, const std::string& name, Operation operation, const Matrix& a,
             const Matrix* b, const Matrix& out) {
    const int step = rows_per_dispatch(program, out.row_bytes(), out.rows);
    for (int first = 0; first < out.rows; first += step) {
        const int rows = std::min(step, out.rows - first);
        const auto count = u32(rows * out.stride);
        elementwise(program, name, operation, read_rows(a, first, rows),
                    b ? read_rows(*b, first, rows) : program::unused(a.tensor),
                    program::unused(a.tensor), write_rows(out, first, rows),
                    {.count = count, .b_count = count, .inner = 1});
    }
}

void keep_permuted(Program& program, const std::string& name, Tensor tensor, const Permutation& p,
                   int count) {
    if (!program.keep_intermediates()) return;
    const Tensor kept = program.add("kept " + name, static_cast<std::uint64_t>(count) * 4,
                                    program::Lifetime::persistent);
    permute(program, "keep", tensor, kept, p);
    program.register_intermediate(name, kept);
}

}  // namespace

void permute(Program& program, const std::string& name, Tensor input, Tensor out,
             const Permutation& p) {
    shaders::permute::Push push{};
    std::uint64_t count = 1;
    for (std::size_t d = 0; d < 5; ++d) {
        push.size[d] = u32(p.size[d]);
        push.in_stride[d] = u32(p.in_stride[d]);
        push.out_stride[d] = u32(p.out_stride[d]);
        count *= push.size[d];
    }
    push.in_limit = u32(p.in_limit ? p.in_limit : p.size[4]);
    push.in_offset = u32(p.in_offset);
    push.out_offset = u32(p.out_offset);
    push.count = static_cast<std::uint32_t>(count);
    const auto groups = groups_for(count, lanes_of(program));
    program.dispatch(name, shaders::ShaderId::permute, {lanes_of(program)},
                     {program::read(input), program::write(out)}, push, groups,
                     20.0 * static_cast<double>(count), cuts_for(groups));
}

void add_repeated(Program& program, const std::string& name, Tensor a, Tensor b, Tensor out,
                  int count, int b_count) {
    elementwise(program, name, Operation::add, program::read(a), program::read(b),
                program::unused(a), program::write(out),
                {.count = u32(count), .b_count = u32(b_count), .inner = 1});
}

void apply_silu(Program& program, const std::string& name, Tensor a, Tensor out, int count) {
    elementwise(program, name, Operation::silu, program::read(a), program::unused(a),
                program::unused(a), program::write(out),
                {.count = u32(count), .b_count = 1, .inner = 1});
}

void scale_channels(Program& program, const std::string& name, Tensor a, Tensor factor,
                    Tensor offset, Tensor out, int count, int channels, int inner) {
    elementwise(program, name, Operation::scale_channels, program::read(a), program::read(factor),
                program::read(offset), program::write(out),
                {.count = u32(count), .b_count = u32(channels), .inner = u32(inner)});
}

void copy(Program& program, const std::string& name, Tensor a, Tensor out, int count, int a_offset,
          int out_offset) {
    const std::uint64_t bytes = static_cast<std::uint64_t>(count) * 4;
    elementwise(program, name, Operation::copy,
                program::read(a, static_cast<std::uint64_t>(a_offset) * 4, bytes),
                program::unused(a), program::unused(a),
                program::write(out, static_cast<std::uint64_t>(out_offset) * 4, bytes),
                {.count = u32(count), .b_count = 1, .inner = 1});
}

void copy(Program& program, const std::string& name, const Matrix& a, const Matrix& out) {
    on_rows(program, name, Operation::copy, a, nullptr, out);
}

void add(Program& program, const std::string& name, const Matrix& a, const Matrix& b,
         const Matrix& out) {
    on_rows(program, name, Operation::add, a, &b, out);
}

void subtract(Program& program, const std::string& name, const Matrix& a, const Matrix& b,
              const Matrix& out) {
    on_rows(program, name, Operation::subtract, a, &b, out);
}

void keep(Program& program, const std::string& name, Tensor tensor, int count) {
    Permutation dense;
    dense.size[4] = count;
    dense.in_stride[4] = dense.out_stride[4] = 1;
    keep_permuted(program, name, tensor, dense, count);
}

void keep_bits(Program& program, Tensor from, Tensor to, int count) {
    copy(program, "keep", from, to, count);
}

void keep(Program& program, const std::string& name, const Matrix& matrix) {
    Permutation dense;
    dense.size = {1, 1, 1, matrix.rows, matrix.columns};
    dense.in_stride = {0, 0, 0, matrix.stride, 1};
    dense.out_stride = {0, 0, 0, matrix.columns, 1};
    keep_permuted(program, name, matrix.tensor, dense, matrix.rows * matrix.columns);
}

void keep(Program& program, const std::string& name, const HeadMatrix& heads) {
    Permutation dense;
    dense.size = {1, 1, heads.tokens, heads.heads, heads.head_dim};
    dense.in_stride = {0, 0, heads.padded_dim, heads.token_stride * heads.padded_dim, 1};
    dense.out_stride = {0, 0, heads.heads * heads.head_dim, heads.head_dim, 1};
    keep_permuted(program, name, heads.tensor, dense, heads.tokens * heads.heads * heads.head_dim);
}

}  // namespace quantsparse::kernels
