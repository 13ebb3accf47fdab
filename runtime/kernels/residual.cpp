#include "kernels/residual.hpp"

namespace quantsparse::kernels {
namespace {

struct AddPush {
    std::uint32_t stride, first_row;
};
static_assert(sizeof(AddPush) == 8, "residual_add.comp declares the same block");

constexpr int kMaxRows = 65535 / 64 * 64;  // one work-group a row and slice of columns

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
    return {static_cast<std::uint32_t>(storage), static_cast<std::uint32_t>(slots),
            static_cast<std::uint32_t>(delta4),  static_cast<std::uint32_t>(difference4),
            static_cast<std::uint32_t>(heads),   static_cast<std::uint32_t>(head_dim)};
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

void add_residual(Program& program, const std::string& name, const Matrix& out,
                  const Residual& residual) {
    const int chunk = std::min(
        kMaxRows,
        rows_per_dispatch(program, std::max(out.row_bytes(), residual.row_bytes()), out.rows));
    const std::uint32_t lanes = row_lanes(program);
    const int items = residual.heads * ((residual.head_dim + 3) / 4);
    std::vector<std::uint32_t> constants = residual.constants();
    constants.insert(constants.begin(), lanes);
    for (int first = 0; first < out.rows; first += chunk) {
        const int rows = std::min(chunk, out.rows - first);
        program::Binding target = write_rows(out, first, rows);
        target.reads = true;
        std::vector<program::Binding> bindings = residual.bindings(first, rows);
        bindings.insert(bindings.begin(), target);
        program.dispatch(
            name, shaders::ShaderId::residual_add, constants, bindings,
            AddPush{static_cast<std::uint32_t>(out.stride), static_cast<std::uint32_t>(first)},
            {ceil_div(static_cast<std::uint64_t>(items), lanes), static_cast<std::uint32_t>(rows),
             1},
            4.0 * rows * items *
                (4 + 2 * residual.slots + 8 * (residual.delta4 + residual.difference4)));
    }
}

}  // namespace quantsparse::kernels
