// Of the variants LORA of gemm_quantized*.comp: as gemm_quantized_push.glsl, and where the low-rank
// factors lie.
layout(push_constant) uniform Push {
    uint m;
    uint k8;
    uint n4;
    uint x_stride4;
    uint n_stride4;
    uint out_stride4;
    uint factor_stride4;
    uint residual_stride4;
    uint gate_offset4;
    uint high_plane4;
    uint rank4;        // rank / 4
    uint lora_stride4; // of lora_rows
    uint lora_first4;  // column of lora_rows / 4 with which the linear's own begin
} p;
