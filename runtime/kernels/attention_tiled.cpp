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

ShaderId full_shader(bool sparse, bool both, bool sums) {
    if (sums) return ShaderId::attention_tiled_sparse_sums;
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

Specialization<Constant> constants_of(const AttentionCall& call, const Shape& shape) {
    auto constants =
        attention_constants<Constant>(call, shape.lanes * shape.teams, shape.lanes, shape.queries);
    constants.set(Constant::teams, shape.teams);
    return constants;
}

class AttentionTiled final : public AttentionKernel {
  public:
    bool fits(const program::Limits&, const AttentionCall&) const override { return true; }

    AttentionPass prepare(Program& program, const std::string& name,
                          const AttentionCall& call) const override {
        const AttentionOptions& options = call.options;
        const Shape shape = shape_for(program.limits(), call.q.padded_dim, call.block());
        auto constants = constants_of(call, shape);
        const bool sparse = options.blocks, both = options.masked;
        AttentionPass pass{full_shader(sparse, both, options.tail),
                           {},
                           whole(call.q),
                           whole(call.k),
                           whole(call.v)};
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

void join_tail(Program& program, const std::string& name, const AttentionCall& call,
               const HeadMatrix& out) {
    using program::read;
    const AttentionTail& tail = *call.options.tail;
    const Shape shape = shape_for(program.limits(), call.q.padded_dim, call.block());
    const int blocks = tail.keys.tokens;
    const int chunk = heads_per_dispatch(program, call.q.head_bytes(), call.q.heads);
    for (int head = 0; head < call.q.heads; head += chunk) {
        const int heads = std::min(chunk, call.q.heads - head);
        program::Binding target = write_heads(out, head, heads);
        target.reads = true;
        program.dispatch(name, ShaderId::attention_tiled_tail, constants_of(call, shape),
                         {read_heads(call.q, head, heads), read_heads(tail.keys, head, heads),
                          read_heads(tail.values, head, heads), target,
                          program::unused(call.q.tensor), read(tail.choice), read(call.sums),
                          program::unused(call.q.tensor), program::unused(call.q.tensor)},
                         shaders::attention_tiled::Push{.queries = u32(out.tokens),
                                                        .keys = u32(blocks),
                                                        .q_stride = u32(call.q.token_stride),
                                                        .kv_stride = u32(tail.keys.token_stride),
                                                        .head_dim = u32(call.q.head_dim),
                                                        .first_head = u32(head),
                                                        .scale = call.options.scale},
                         {ceil_div(u32(out.tokens), shape.queries * shape.teams), u32(heads), 1},
                         4.0 * out.tokens * blocks * call.q.padded_dim * heads,
                         program::kCutAnywhere);  // there is no padding
    }
}

const AttentionKernel& attention_tiled() {
    static const AttentionTiled kernel;
    return kernel;
}

}  // namespace quantsparse::kernels
