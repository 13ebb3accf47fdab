// Of gemm_quantized*.comp and of gemm_matrix.comp with codes.
layout(push_constant) uniform Push {
    uint m;
    uint k8;          // padded K / 8, a multiple of 4
    uint n4;          // ceil(N / 4)
    uint x_stride4;   // words of a row of activations / 4
    uint n_stride4;   // words of a row of weights / 4
    uint out_stride4;
    uint factor_stride4;
    uint residual_stride4;
    uint gate_offset4;
    uint high_plane4; // 6 bits: where the 2-bit plane begins, in uvec4
} p;
