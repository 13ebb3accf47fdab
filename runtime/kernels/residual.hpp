// The residual state of one layer as kernels bind it (shaders/include/residual.glsl), and the pass
// that adds its correction to an attention output.
#pragma once

#include <vector>

#include "kernels/matrix.hpp"

namespace quantsparse::kernels {

struct Residual {
    /// As residual.glsl numbers them.
    enum class Storage { half = 1, int8 = 2, int4 = 3, low_rank = 4 };
    Storage storage = Storage::half;
    int tokens = 0;
    int heads = 0;
    int head_dim = 0;
    int slots = 1;        ///< residuals kept; 1 with low rank
    int delta4 = 0;       ///< factors of the residual itself, in fours: low rank only
    int difference4 = 0;  ///< factors of the last two residuals' difference, in fours
    Tensor rows;          ///< uint32 [tokens, slots, slot_words()], invalid with low rank
    Matrix u, v;     ///< fp32 [tokens, .], [heads * head_dim, .]; tensors invalid without factors
    Tensor state;    ///< uint32 [4, heads] and two counters (residual_heads.comp)
    Tensor control;  ///< attention::Correction, written by the host at every step

    int slot_words() const;
    std::uint64_t row_bytes() const {
        return static_cast<std::uint64_t>(slots) * static_cast<std::uint64_t>(slot_words()) * 4;
    }
    /// The constants that residual.glsl declares, from its first on.
    std::vector<std::uint32_t> constants() const;
    /// Its bindings, with rows first .. first+count-1 of the history. `texels`: u and v are read
    /// through texel buffers.
    std::vector<program::Binding> bindings(int first, int count, bool change_rows = false,
                                           bool texels = false) const;
};

/// The same of a kernel that adds a residual or, with nullptr, none. `any` is bound then.
std::vector<std::uint32_t> residual_constants(const Residual* residual);
void append_residual(std::vector<program::Binding>& bindings, const Residual* residual, Tensor any,
                     int first, int count, bool texels);
inline std::uint64_t row_bytes(const Residual* residual) {
    return residual ? residual->row_bytes() : 0;
}

/// out[t, h * head_dim + c] += correction; `out` may be in chunks of its own.
void add_residual(Program& program, const std::string& name, const Matrix& out,
                  const Residual& residual);

}  // namespace quantsparse::kernels
