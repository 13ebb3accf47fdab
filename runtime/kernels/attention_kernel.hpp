// The kernels of attention behind one interface, so that attention.cpp need not know which there
// are or how they differ: it runs a call on the first that fits.
#pragma once

#include <string>
#include <vector>

#include "kernels/attention.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {

/// What attention() is asked for, and what it has decided for all kernels.
struct AttentionCall {
    const HeadMatrix& q;
    const HeadMatrix& k;
    const HeadMatrix& v;
    const Matrix& out;
    const AttentionOptions& options;
    int keys = 0;             ///< that are looked at
    bool texels = false;      ///< the device reads q, k, v and the residual faster as texels
    bool ordered = false;     ///< heads have types
    bool head_major = false;  ///< the kernel writes heads in their own order, not `out`
    const Residual* residual = nullptr;  ///< that the kernel adds
    Tensor sums;  ///< fp32 [heads, q's token_stride]: of denominators, where a tail is joined

    int block() const { return options.blocks ? options.blocks->block : 0; }
    bool in_codes() const { return options.products != AttentionProducts::full; }
};

/// How a kernel runs a call: a dispatch for each chunk of heads and rows.
struct AttentionPass {
    /// [heads, ...] with so many bytes a head.
    struct Operand {
        Tensor tensor;
        std::uint64_t head_bytes = 0;
    };
    shaders::ShaderId shader;
    std::vector<std::uint32_t> constants;
    Operand q, k, v;
    program::Binding bias;                     ///< or what is bound in its place
    std::uint32_t queries;                     ///< of a work-group
    bool texels = false;                       ///< how q, k, v and the residual are bound
    program::Cuts cuts = {true, false, true};  ///< the last head, y, writes the padding
};

class AttentionKernel {
  public:
    virtual ~AttentionKernel() = default;
    virtual bool fits(const program::Limits& limits, const AttentionCall& call) const = 0;
    /// Appends what must run before the pass, such as the packing of operands.
    virtual AttentionPass prepare(Program& program, const std::string& name,
                                  const AttentionCall& call) const = 0;
};

const AttentionKernel& attention_matrix();   ///< on matrix units
const AttentionKernel& attention_private();  ///< invocations keep queries to themselves
const AttentionKernel& attention_tiled();    ///< work-groups share tiles; fits every call

/// Joins a call's tail to what its kernel has left in `out`, in the heads' own order.
void join_tail(Program& program, const std::string& name, const AttentionCall& call,
               const HeadMatrix& out);

/// The one that runs a call.
const AttentionKernel& attention_kernel(const program::Limits& limits, const AttentionCall& call);

/// The constants of shaders/include/attention.glsl, which the kernels share. `group_lanes` is the
/// work-group's width, of which `lanes` share `queries`.
template <typename Constant>
Specialization<Constant> attention_constants(const AttentionCall& call, std::uint32_t group_lanes,
                                             std::uint32_t lanes, std::uint32_t queries) {
    Specialization<Constant> constants(group_lanes,
                                       {{Constant::dim4, u32(call.q.padded_dim / 4)},
                                        {Constant::has_bias, call.options.bias.valid()},
                                        {Constant::lanes, lanes},
                                        {Constant::queries, queries}});
    if (call.options.blocks) {
        constants.set(Constant::block, u32(call.block()));
        constants.set(Constant::ordered, call.ordered);
        constants.set_from(Constant::residual, residual_constants(call.residual));
        constants.set(Constant::head_major, call.head_major);
    }
    return constants;
}

inline AttentionPass::Operand whole(const HeadMatrix& m) {
    return {m.tensor, m.head_bytes()};
}

}  // namespace quantsparse::kernels
