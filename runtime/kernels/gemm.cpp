#include "kernels/gemm.hpp"

#include <algorithm>

namespace quantsparse::kernels {

void append_epilogue(std::vector<program::Binding>& bindings, const Matrix& out, Tensor bias,
                     const Epilogue& epilogue, int first, int count, Tensor any) {
    const auto vector = [&](Tensor t) {
        return t.valid() ? program::read(t) : program::unused(any);
    };
    const auto matrix = [&](const Matrix* m) {
        return m ? read_rows(*m, first, count) : program::unused(any);
    };
    bindings.insert(bindings.end(),
                    {write_rows(out, first, count), vector(bias), matrix(epilogue.factor),
                     matrix(epilogue.residual), vector(epilogue.gate)});
}

std::uint64_t widest_row(std::uint64_t input, const Matrix& out, const Epilogue& epilogue) {
    return std::max({input, out.row_bytes(), epilogue.factor ? epilogue.factor->row_bytes() : 0,
                     epilogue.residual ? epilogue.residual->row_bytes() : 0});
}

}  // namespace quantsparse::kernels
