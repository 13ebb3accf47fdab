#include <shaders/elementwise.hpp>

#include "kernels/copy.hpp"
#include "kernels/elements.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

enum class Operation : std::uint32_t {
    add = 0,
    silu = 1,
    scale_channels = 2,
    copy = 3,
    subtract = 4,
    gelu_tanh = 5
};

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

}  // namespace

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

void apply_gelu(Program& program, const std::string& name, const Matrix& m) {
    on_rows(program, name, Operation::gelu_tanh, m, nullptr, m);
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

void keep_bits(Program& program, Tensor from, Tensor to, int count) {
    copy(program, "keep", from, to, count);
}

}  // namespace quantsparse::kernels
