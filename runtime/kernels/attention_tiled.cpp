#include <algorithm>
#include <shaders/attention_tiled.hpp>

#include "kernels/attention_codes.hpp"
#include "kernels/attention_kernel.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;
using Constant = shaders::attention_tiled::Constant;

/// Invocations of a work-group on GPUs.
constexpr std::uint32_t kFullGroup = 64;

struct Shape {
    std::uint32_t lanes;    ///< of a team
    std::uint32_t queries;  ///< of a team
    std::uint32_t teams;
};

Shape shape_for(const program::Limits& limits, int padded_dim, int block) {
    // CPU drivers run the lanes of a narrow group as one vector. 8 queries took 147 ms a call on
    // llvmpipe (972 tokens, 3 heads of 64), 16 took 228: their sums spill. Very wide heads keep
    // fewer still.
    std::uint32_t lanes = limits.runs_on_cpu ? 8 : 32;
    // A tile is 4 keys a lane and doesn't pass a block's end.
    if (block) lanes = std::min(lanes, u32(block) / 4);
    // On GPUs the sums and scores of eight queries fill the registers where a lane owns more than
    // one vec4 of the output: 9 spilled on gfx1100 in sparse attention, heads of 128, blocks of 64.
    const bool few =
        limits.runs_on_cpu ? padded_dim > 128 : padded_dim > 4 * static_cast<int>(lanes);
    const std::uint32_t queries = few ? 4 : 8;
    // AMD's subgroups of 64 idle in narrower groups. All of a group's queries lie in one block.
    std::uint32_t teams = 1;
    if (!limits.runs_on_cpu) {
        teams = std::min(kFullGroup, limits.max_invocations) / lanes;
        if (block) teams = std::min(teams, u32(block) / queries);
    }
    return {lanes, queries, std::max(teams, 1u)};
}

ShaderId full_shader(bool sparse, bool both) {
    if (both) return ShaderId::attention_tiled_both;
    return sparse ? ShaderId::attention_tiled_sparse : ShaderId::attention_tiled_dense;
}

ShaderId code_shader(bool sparse, bool both, bool dot) {
    if (both) {
        return dot ? ShaderId::attention_tiled_both_int8_dot
                   : ShaderId::attention_tiled_both_int8_portable;
    }
    if (sparse) {
        return dot ? ShaderId::attention_tiled_sparse_int8_dot
                   : ShaderId::attention_tiled_sparse_int8_portable;
    }
    return dot ? ShaderId::attention_tiled_dense_int8_dot
               : ShaderId::attention_tiled_dense_int8_portable;
}

class AttentionTiled final : public AttentionKernel {
  public:
    bool fits(const program::Limits&, const AttentionCall&) const override { return true; }

    AttentionPass prepare(Program& program, const std::string& name,
                          const AttentionCall& call) const override {
        const AttentionOptions& options = call.options;
        const Shape shape = shape_for(program.limits(), call.q.padded_dim, call.block());
        auto constants = attention_constants<Constant>(call, shape.lanes * shape.teams, shape.lanes,
                                                       shape.queries);
        constants.set(Constant::teams, shape.teams);
        const bool sparse = options.blocks, both = options.masked;
        AttentionPass pass{
            full_shader(sparse, both), {}, whole(call.q), whole(call.k), whole(call.v)};
        pass.bias =
            options.bias.valid() ? program::read(options.bias) : program::unused(call.q.tensor);
        pass.queries = shape.queries * shape.teams;
        if (call.in_codes()) {
            const AttentionCodes codes = quantize_operands(
                program, name, call.q, call.k, call.v,
                {options.scale, call.keys, options.products == AttentionProducts::int8});
            constants.set(Constant::coded_values, codes.v.valid());
            pass.shader = code_shader(sparse, both, program.limits().uses_dot());
            pass.q = {codes.q, codes.head_bytes(call.q)};
            pass.k = {codes.k, codes.head_bytes(call.k)};
            if (codes.v.valid()) pass.v = {codes.v, codes.head_bytes(call.v)};
            pass.bias = program::read(codes.scales);
        }
        pass.constants = constants;
        return pass;
    }
};

}  // namespace

const AttentionKernel& attention_tiled() {
    static const AttentionTiled kernel;
    return kernel;
}

}  // namespace quantsparse::kernels
