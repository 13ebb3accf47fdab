// Matrix products with floating-point weights, and the epilogue they share with the integer ones.
#pragma once

#include <vector>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

enum class Activation { none = 0, gelu_tanh = 1, silu = 2 };

/// out = residual + gate * (factor * activation(sum + bias)); each part optional (epilogue.glsl).
struct Epilogue {
    Activation activation = Activation::none;
    const Matrix* factor = nullptr;
    const Matrix* residual = nullptr;  ///< may be the output itself
    Tensor gate;  ///< fp32 vector of N at gate_offset (floats, a multiple of 4)
    int gate_offset = 0;
};

/// A weight [n, k] transposed to [k, n_stride], in panels of columns that each fit one binding.
struct FloatWeight {
    struct Panel {
        Tensor tensor;
        int first_column = 0;  ///< a multiple of 4
        int columns = 0;
    };
    std::string name;
    int n = 0;
    int k = 0;
    bool half = false;
    std::vector<Panel> panels;
    Tensor bias;  ///< fp32 [round_up(n, 4)], optional
};

/// Declares the tensors of a weight; the values are written by models/weights.hpp.
FloatWeight add_float_weight(Program& program, const std::string& name, int n, int k, bool half,
                             bool has_bias,
                             program::Lifetime lifetime = program::Lifetime::constant);

/// out[m, n] = epilogue(a[m, k] * weight[n, k]^T). Golden tolerance: fp32 sums in order of
/// k.
void matmul(Program& program, const std::string& name, const Matrix& a, const FloatWeight& weight,
            const Matrix& out, const Epilogue& epilogue = {});

}  // namespace quantsparse::kernels
