// q, k and v of attention in codes of eight bits, after SageAttention (arXiv 2410.02367):
// shaders/include/attention_codes.glsl has the formulas.
#pragma once

#include "kernels/rows.hpp"

namespace quantsparse::kernels {

struct AttentionCodes {
    static constexpr int kScaleBlock = 64;  ///< tokens that share a scale of q or k
    Tensor q, k;                            ///< int8 [heads, token_stride, columns]
    /// int8 [heads, token_stride / 4, columns, 4 tokens]; invalid: v is not in codes.
    Tensor v;
    /// fp32 [heads, q's blocks + k's blocks + columns of v]; the softmax's scale is in q's.
    Tensor scales;
    int columns = 0;  ///< padded_dim rounded up to 16, what the kernel reads at once
    int q_blocks = 0, k_blocks = 0;

    std::uint64_t head_bytes(const HeadMatrix& m) const {
        return static_cast<std::uint64_t>(m.token_stride) * static_cast<std::uint64_t>(columns);
    }
};

struct CodeOptions {
    float scale = 1;      ///< of the scores
    int keys = 0;         ///< of k and v that are looked at
    bool values = false;  ///< v in codes as well
};

AttentionCodes quantize_operands(Program& program, const std::string& name, const HeadMatrix& q,
                                 const HeadMatrix& k, const HeadMatrix& v,
                                 const CodeOptions& options,
                                 program::Lifetime lifetime = program::Lifetime::transient);

}  // namespace quantsparse::kernels
