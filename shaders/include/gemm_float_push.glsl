// Of gemm_float.comp and of gemm_matrix.comp with half weights.
layout(push_constant) uniform Push {
    uint m;
    uint k;
    uint n4;         // ceil(N / 4)
    uint a_stride4;  // strides in vec4
    uint b_stride4;
    uint out_stride4;
    uint factor_stride4;
    uint residual_stride4;
    uint gate_offset4;
    uint column4;    // first column / 4 of this dispatch in out, bias, factor, residual and gate
} p;
