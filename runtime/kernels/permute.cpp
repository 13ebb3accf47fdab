#include <shaders/permute.hpp>

#include "kernels/copy.hpp"
#include "kernels/elements.hpp"

namespace quantsparse::kernels {
namespace {

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

void keep(Program& program, const std::string& name, Tensor tensor, int count) {
    Permutation dense;
    dense.size[4] = count;
    dense.in_stride[4] = dense.out_stride[4] = 1;
    keep_permuted(program, name, tensor, dense, count);
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
