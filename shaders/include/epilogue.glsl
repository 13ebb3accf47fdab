// What a matrix product does with its accumulators, shared by the float and the integer kernels:
//
//   y = accumulator + bias[n]
//   y = activation(y)                      none | GELU (tanh form) | SiLU
//   y = y * factor[m, n]                   gated feed-forward of UMT5
//   out[m, n] = residual[m, n] + y * gate[n]
//
// The including kernel declares the buffers bias_values, factor_values, residual_values, gate_values
// (all vec4) and push constants p with the offsets used here (in vec4 units).
#ifndef QUANTSPARSE_EPILOGUE_GLSL
#define QUANTSPARSE_EPILOGUE_GLSL

layout(constant_id = 4) const uint kHasBias = 0;
layout(constant_id = 5) const uint kActivation = 0;  // 0 none, 1 GELU tanh, 2 SiLU
layout(constant_id = 6) const uint kHasFactor = 0;
layout(constant_id = 7) const uint kHasResidual = 0;
layout(constant_id = 8) const uint kHasGate = 0;

vec4 gelu_tanh(vec4 x) {
    // tanh through exp keeps its accuracy on drivers whose tanh() is a rough one; saturated arguments
    // are clamped so that exp() stays finite.
    const vec4 u = 0.7978845608028654 * (x + 0.044715 * x * x * x);
    const vec4 e = exp(-2.0 * clamp(u, vec4(-15.0), vec4(15.0)));
    return 0.5 * x * (1.0 + (1.0 - e) / (1.0 + e));
}

vec4 silu(vec4 x) {
    return x / (1.0 + exp(-x));
}

/// `n4`: column / 4; `row`: row of this dispatch.
vec4 epilogue(vec4 y, uint row, uint n4) {
    if (kHasBias != 0) y += bias_values[n4];
    if (kActivation == 1) y = gelu_tanh(y);
    if (kActivation == 2) y = silu(y);
    if (kHasFactor != 0) y *= factor_values[row * p.factor_stride4 + n4];
    if (kHasGate != 0) y *= gate_values[p.gate_offset4 + n4];
    if (kHasResidual != 0) y += residual_values[row * p.residual_stride4 + n4];
    return y;
}

#endif
