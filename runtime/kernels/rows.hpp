// Operations on token rows: normalisation with modulation, and the split into attention heads.
#pragma once

#include <array>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

struct Norm {
    enum class Kind { layer = 0, rms = 1 };
    Kind kind = Kind::layer;
    float eps = 1e-6f;
    Tensor weight;      ///< fp32 [columns], optional
    Tensor bias;        ///< fp32 [columns], optional
    Tensor modulation;  ///< fp32, optional: y * (1 + modulation[scale_offset + i]) +
                        ///< modulation[shift_offset + i]
    int shift_offset = 0;
    int scale_offset = 0;
    Tensor watch;  ///< uint32, optional: watch[site] becomes 1 when the input is not finite
    int site = 0;
};

void normalize_rows(Program& program, const std::string& name, const Matrix& input,
                    const Matrix& out, const Norm& norm);

/// fp32 [heads, token_stride, padded_dim], head-major: an operand of attention.
struct HeadMatrix {
    Tensor tensor;
    int heads = 0;
    int tokens = 0;
    int head_dim = 0;
    int padded_dim = 0;    ///< head_dim rounded up to 4
    int token_stride = 0;  ///< tokens rounded up to 16, so that each head begins aligned

    std::uint64_t head_bytes() const {
        return static_cast<std::uint64_t>(token_stride) * static_cast<std::uint64_t>(padded_dim) *
               4;
    }
};
/// Binds heads first .. first+count-1.
inline program::Binding read_heads(const HeadMatrix& m, int first, int count) {
    return program::read(m.tensor, m.head_bytes() * static_cast<std::uint64_t>(first),
                         m.head_bytes() * static_cast<std::uint64_t>(count));
}
inline program::Binding write_heads(const HeadMatrix& m, int first, int count) {
    return program::write(m.tensor, m.head_bytes() * static_cast<std::uint64_t>(first),
                          m.head_bytes() * static_cast<std::uint64_t>(count));
}
HeadMatrix add_head_matrix(Program& program, const std::string& name, int heads, int tokens,
                           int head_dim, program::Lifetime lifetime = program::Lifetime::transient);

/// How heads see the tokens of a clip: type 0 frame by frame, type 1 place by place.
struct TokenOrder {
    static constexpr int kMostTokens = 1 << 21;  ///< that token_order.glsl divides exactly
    Tensor head_types;                           ///< uint32 [heads]; invalid: all of type 0
    int frames = 0;
    int tokens_per_frame = 0;
    bool first_frame_apart = false;  ///< type 1 holds frame 0 as it is, the others after it
    int text_in_front =
        0;  ///< tokens before the grid; they and those behind it stay where they are
    /// uint32 [tokens]: where each token is, in all heads; instead of types and all of the above.
    Tensor positions;

    /// What kernels bind of either; invalid: tokens are where they are.
    Tensor table() const { return positions.valid() ? positions : head_types; }
};

/// What happens to the rows on the way (split_heads.comp).
struct HeadTransform {
    Tensor norm_weight;  ///< fp32 [heads * head_dim]: RMS norm over all heads together; optional
    float eps = 1e-6f;
    Tensor rope_table;                  ///< fp32 (cos, sin) [positions, head_dim / 2]; optional
    std::array<int, 2> grid = {1, 1};   ///< rows, columns of a frame in tokens
    std::array<int, 2> pairs = {0, 0};  ///< pairs turned by time, by row
    TokenOrder order;                   ///< the whole clip must be in `input`
    bool only_temporal = false;  ///< `out` has all heads frame by frame: those of type 0 stay
};
void split_heads(Program& program, const std::string& name, const Matrix& input,
                 const HeadMatrix& out, const HeadTransform& transform = {});

}  // namespace quantsparse::kernels
