// Host side of shaders/matrix/attention_matrix.comp.
#include <algorithm>
#include <shaders/attention_matrix.hpp>

#include "kernels/attention_kernel.hpp"
#include "kernels/matrix_tiles.hpp"
#include "kernels/pack_halves.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;
using Constant = shaders::attention_matrix::Constant;

/// Subgroups of a work-group that share the tiles.
constexpr std::uint32_t kMostSubgroups = 8;

/// Keys of a tile: two matrices of 16, as compile.sh says.
constexpr std::uint64_t kTileKeys = 32;

std::uint32_t subgroups_for(const program::Limits& limits, int block) {
    std::uint32_t subgroups = std::min(kMostSubgroups, limits.max_invocations / limits.subgroup);
    if (block) subgroups = std::min(subgroups, u32(block) / limits.matrix_half.m);
    return subgroups;
}

/// The tiles of k and v and each subgroup's scores, in elements of 16 bytes; rows are one longer
/// than what they hold.
std::uint64_t shared_bytes(std::uint64_t head_dim, std::uint64_t rows) {
    return 16 * (2 * kTileKeys * (head_dim / 8 + 1) + rows * (kTileKeys / 4 + 1));
}

class AttentionMatrix final : public AttentionKernel {
  public:
    /// There are modules for heads of 64 and 128 columns, without a bias or a tail and with one
    /// result; the
    /// lanes that share a row of 32 scores take eight at least.
    bool fits(const program::Limits& limits, const AttentionCall& call) const override {
        const MatrixShape& shape = limits.matrix_half;
        const int dim = call.q.head_dim;
        return limits.arithmetic == Arithmetic::matrix && shape.n == 16 && shape.k == 16 &&
               limits.subgroup <= 4 * shape.m && (dim == 64 || dim == 128) &&
               !call.options.bias.valid() && !call.options.masked && !call.options.tail &&
               !call.in_codes() && call.out.stride == call.out.columns &&
               call.q.tokens >= kFewestMatrixRows &&
               shared_bytes(static_cast<std::uint64_t>(dim),
                            std::uint64_t{subgroups_for(limits, call.block())} * shape.m) <=
                   limits.shared_bytes;
    }

    AttentionPass prepare(Program& program, const std::string& name,
                          const AttentionCall& call) const override {
        const program::Limits& limits = program.limits();
        const std::uint32_t subgroups = subgroups_for(limits, call.block());
        const std::uint32_t lanes = subgroups * limits.subgroup;
        const std::uint32_t queries = subgroups * limits.matrix_half.m;
        auto constants = attention_constants<Constant>(call, lanes, lanes, queries);
        constants.set(Constant::m, limits.matrix_half.m);
        constants.set(Constant::subgroup, limits.subgroup);
        const auto packed = [&](const HeadMatrix& m, const char* what) {
            return AttentionPass::Operand{pack_halves(program, name + what, m), m.head_bytes() / 2};
        };
        const bool wide = call.q.head_dim == 128;
        AttentionPass pass;
        pass.shader = call.options.blocks ? wide ? ShaderId::attention_matrix_sparse_128
                                                 : ShaderId::attention_matrix_sparse_64
                      : wide              ? ShaderId::attention_matrix_dense_128
                                          : ShaderId::attention_matrix_dense_64;
        pass.constants = constants;
        pass.q = packed(call.q, ".q_halves");
        pass.k = packed(call.k, ".k_halves");
        pass.v = packed(call.v, ".v_halves");
        pass.bias = program::unused(call.q.tensor);
        pass.queries = queries;
        pass.cuts = program::kCutAnywhere;  // there is no padding
        return pass;
    }
};

}  // namespace

const AttentionKernel& attention_matrix() {
    static const AttentionMatrix kernel;
    return kernel;
}

}  // namespace quantsparse::kernels
