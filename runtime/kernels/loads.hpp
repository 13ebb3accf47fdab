// How a dispatch reads its inputs: as storage buffers, or as uniform texel buffers on drivers that
// read those faster (Quirks::texel_reads_are_faster).
#pragma once

#include <initializer_list>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

/// Width of the work-groups of kernels whose invocations own a row or a block, on CPU drivers: one
/// vector.
inline constexpr std::uint32_t kPrivateLanes = 8;

/// The widest heads such kernels take: wider ones would unroll into too much code.
inline constexpr int kWidestPrivate = 128;

struct Loads {
    bool texels = false;

    program::Binding operator()(const program::Binding& binding) const {
        return texels ? program::as_texels(binding) : binding;
    }
    /// `tensor`, or a binding that the kernel does not touch in its place.
    program::Binding optional(program::Tensor tensor, program::Tensor any) const {
        return (*this)(tensor.valid() ? program::read(tensor) : program::unused(any));
    }
};

/// Texel buffers where the device wants them and all of the inputs and of the tensors that are
/// there fit.
inline Loads loads(const program::Program& program, std::initializer_list<program::Binding> inputs,
                   std::initializer_list<program::Tensor> optional = {}) {
    Loads result{program.reads_texels(inputs)};
    for (const program::Tensor tensor : optional) {
        if (tensor.valid()) {
            result.texels = result.texels && program.reads_texels({program::read(tensor)});
        }
    }
    return result;
}

/// How a dispatch over a chunk of the rows of `input` reads them and what else is there;
/// `whole_vec4`: nothing begins or ends inside a texel.
inline Loads row_loads(const Program& program, const Matrix& input, bool whole_vec4,
                       std::initializer_list<Tensor> tensors) {
    const int chunk =
        std::min(input.rows, rows_per_dispatch(program, input.row_bytes(), input.rows));
    Loads load = loads(program, {read_rows(input, 0, chunk)}, tensors);
    load.texels = load.texels && whole_vec4;
    return load;
}

}  // namespace quantsparse::kernels
