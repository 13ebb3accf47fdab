// The kernels of matrix products behind one interface: each says whether it fits a call. What they
// share beside it is the epilogue (shaders/include/epilogue.glsl).
#pragma once

#include <optional>
#include <vector>

#include "kernels/matmul.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {

/// A dispatch of a product.
struct GemmCall {
    int rows = 0;      ///< of the dispatch
    int all_rows = 0;  ///< of the product, which may be in several
    int columns = 0;
    int weight_bits = 32;      ///< 3, 4, 6 or 8: codes; 16 or 32: floats
    int activation_bits = 32;  ///< 6 or 8: codes
    bool texels = false;       ///< the device reads both operands faster as texels
    bool accumulators = false;
    bool bias = false;
    bool lora = false;  ///< a low-rank product is added
    const Epilogue& epilogue;

    std::uint32_t columns4() const { return ceil_div(u32(columns), 4); }
};

/// How a kernel runs it.
struct GemmPass {
    shaders::ShaderId shader;
    std::vector<std::uint32_t> constants;
    std::uint32_t rows;      ///< of a work-group
    std::uint32_t columns4;  ///< of a work-group, in fours
    bool texels = false;     ///< how the operands are bound

    std::array<std::uint32_t, 3> groups(const GemmCall& call) const {
        return {ceil_div(call.columns4(), columns4), ceil_div(u32(call.rows), rows), 1};
    }
};

/// On matrix units, codes and halves: shaders/matrix/gemm_matrix.comp.
std::optional<GemmPass> gemm_matrix(const program::Limits& limits, const GemmCall& call);
/// Two products of codes a multiplication.
std::optional<GemmPass> gemm_quantized_pairs(const program::Limits& limits, const GemmCall& call);
/// Fits all products of codes.
GemmPass gemm_quantized(const program::Limits& limits, const GemmCall& call);
/// Fits all products of floats.
GemmPass gemm_float(const program::Limits& limits, const GemmCall& call);

/// The constants of epilogue.glsl.
template <typename Constant>
void set_epilogue(Specialization<Constant>& constants, const GemmCall& call) {
    const Epilogue& e = call.epilogue;
    constants.set(Constant::has_bias, call.bias);
    constants.set(Constant::activation, u32(static_cast<int>(e.activation)));
    constants.set(Constant::has_factor, e.factor != nullptr);
    constants.set(Constant::has_residual, e.residual != nullptr);
    constants.set(Constant::has_gate, e.gate.valid());
}

/// Bindings 2 to 6: rows first .. first+count-1 of the output and what its epilogue reads. `any` is
/// bound in the place of what it doesn't.
void append_epilogue(std::vector<program::Binding>& bindings, const Matrix& out, Tensor bias,
                     const Epilogue& epilogue, int first, int count, Tensor any);

/// Strides in fours of what the epilogue reads, for the push constants.
inline std::uint32_t stride4(const Matrix* matrix) {
    return matrix ? u32(matrix->stride / 4) : 0;
}

/// The bytes of a row of the widest matrix of those that a dispatch binds rows of.
std::uint64_t widest_row(std::uint64_t input, const Matrix& out, const Epilogue& epilogue);

}  // namespace quantsparse::kernels
