#include "kernels/residual.hpp"

#include <shaders/residual.hpp>
#include <shaders/residual_add.hpp>

#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

using Constant = shaders::residual::Constant;

std::vector<std::uint32_t> constants_of(std::uint32_t storage, int slots, int delta4,
                                        int difference4, int heads, int head_dim) {
    return Specialization<Constant>(storage, {{Constant::slots, u32(slots)},
                                              {Constant::delta4, u32(delta4)},
                                              {Constant::difference4, u32(difference4)},
                                              {Constant::residual_heads, u32(heads)},
                                              {Constant::residual_dim, u32(head_dim)}});
}

}  // namespace

int Residual::slot_words() const {
    const int head4 = (head_dim + 3) / 4;
    switch (storage) {
        case Storage::half:
            return heads * 2 * head4;
        case Storage::int8:
            return heads * (head4 + 1);
        case Storage::int4:
            return heads * ((head4 + 1) / 2 + 1);
        default:
            return 0;
    }
}

std::vector<std::uint32_t> Residual::constants() const {
    return constants_of(static_cast<std::uint32_t>(storage), slots, delta4, difference4, heads,
                        head_dim);
}

std::vector<program::Binding> Residual::bindings(int first, int count, bool change_rows,
                                                 bool texels) const {
    using program::read;
    using program::unused;
    const auto optional = [&](Tensor t) {
        const program::Binding binding = t.valid() ? read(t) : unused(state);
        return texels ? program::as_texels(binding) : binding;
    };
    program::Binding history = unused(state);
    history.texels = texels;
    if (rows.valid()) {
        // Whole texels: tensors are padded to them, and only the last chunk may end inside of one.
        const std::uint64_t bytes = row_bytes() * static_cast<std::uint64_t>(count);
        history = {rows,
                   row_bytes() * static_cast<std::uint64_t>(first),
                   (bytes + 15) / 16 * 16,
                   true,
                   change_rows,
                   texels};
    }
    return {history, optional(u.tensor), optional(v.tensor), read(state), read(control)};
}

std::vector<std::uint32_t> residual_constants(const Residual* residual) {
    return residual ? residual->constants() : constants_of(0, 1, 0, 0, 1, 4);
}

void append_residual(std::vector<program::Binding>& bindings, const Residual* residual, Tensor any,
                     int first, int count, bool texels) {
    std::vector<program::Binding> more(5, program::unused(any));
    more[0].texels = more[1].texels = more[2].texels = texels;
    if (residual) more = residual->bindings(first, count, false, texels);
    bindings.insert(bindings.end(), more.begin(), more.end());
}

void add_residual(Program& program, const std::string& name, const Matrix& out,
                  const Residual& residual) {
    const int chunk = std::min(
        kMaxRows,
        rows_per_dispatch(program, std::max(out.row_bytes(), residual.row_bytes()), out.rows));
    const std::uint32_t lanes = row_lanes(program);
    const int items = residual.heads * ((residual.head_dim + 3) / 4);
    using AddConstant = shaders::residual_add::Constant;
    Specialization<AddConstant> constants(lanes);
    constants.set_from(AddConstant::residual, residual.constants());
    for (int first = 0; first < out.rows; first += chunk) {
        const int rows = std::min(chunk, out.rows - first);
        program::Binding target = write_rows(out, first, rows);
        target.reads = true;
        std::vector<program::Binding> bindings = {target};
        append_residual(bindings, &residual, out.tensor, first, rows, false);
        program.dispatch(
            name, shaders::ShaderId::residual_add, constants, bindings,
            shaders::residual_add::Push{.stride = u32(out.stride), .first_row = u32(first)},
            {ceil_div(static_cast<std::uint64_t>(items), lanes), u32(rows), 1},
            4.0 * rows * items *
                (4 + 2 * residual.slots + 8 * (residual.delta4 + residual.difference4)));
    }
}

}  // namespace quantsparse::kernels
