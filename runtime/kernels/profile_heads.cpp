#include "kernels/head_profile.hpp"

#include <algorithm>
#include <shaders/profile_errors.hpp>
#include <shaders/profile_heads.hpp>
#include <shaders/profile_types.hpp>

#include "kernels/loads.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

using program::read;
using shaders::ShaderId;

constexpr int kMasks = 3;  ///< as profile.glsl counts them

/// How the samples of a head and its keys are shared out.
struct Shape {
    ShaderId shader = ShaderId::profile_heads;
    std::uint32_t lanes = 32;
    int samples = 8;        ///< of an invocation (private) or a work-group
    int group_samples = 8;  ///< of a work-group
    int split_keys = 0;     ///< of a work-group
    int splits = 1;
};

/// Fours of columns whose errors are looked at, at most the width of any work-group.
constexpr int kSampledFours = 8;

/// Samples of an invocation, whose outputs have names of their own there.
constexpr int kPrivateSamples = 4;

Shape shape_for(const Program& program, const HeadMatrix& q, int samples, bool texels) {
    // Work-groups that fill the widest GPUs; CPU drivers run one a core.
    const int wanted_groups = program.limits().runs_on_cpu ? 64 : 1024;
    constexpr int kFewestKeys = 256;  // of a split: its results are written and read once
    Shape shape;
    if (texels && q.padded_dim <= kWidestPrivate) {
        shape.shader = ShaderId::profile_heads_private;
        shape.lanes = kPrivateLanes;
        shape.samples = kPrivateSamples;
        shape.group_samples = shape.samples * static_cast<int>(kPrivateLanes);
    } else {
        // An invocation holds three sums of each sample. With 8, 106 registers spill on gfx1100.
        const bool cpu = program.limits().runs_on_cpu;
        shape.lanes = cpu ? 8 : 32;
        shape.samples = cpu ? 8 : 4;
        shape.group_samples = shape.samples;
    }
    const int groups = (samples + shape.group_samples - 1) / shape.group_samples * q.heads;
    const int most = std::max(1, q.tokens / kFewestKeys);
    const int splits = std::clamp((wanted_groups + groups - 1) / groups, 1, most);
    // A tile, 4 keys a lane, doesn't pass a split's end.
    const int tile = 4 * static_cast<int>(shape.lanes);
    shape.split_keys = round_up((q.tokens + splits - 1) / splits, tile);
    shape.splits = (q.tokens + shape.split_keys - 1) / shape.split_keys;
    return shape;
}

}  // namespace

Tensor profile_heads(Program& program, const std::string& name, const HeadMatrix& q,
                     const HeadMatrix& k, const HeadMatrix& v, float scale, const BlockList& blocks,
                     const TokenOrder& order, int samples) {
    samples = std::min(samples, q.tokens);
    const std::uint32_t lanes = row_lanes(program);
    const int fours = std::min(q.padded_dim / 4, kSampledFours);
    const Tensor errors =
        program.add(name + ".errors",
                    static_cast<std::uint64_t>(q.heads) * static_cast<std::uint64_t>(samples) * 8);
    const Loads load = loads(program, {read(q.tensor), read(k.tensor), read(v.tensor)});
    const Shape shape = shape_for(program, q, samples, load.texels);
    const Loads operands{shape.shader == ShaderId::profile_heads_private};
    const std::uint64_t partial_bytes = static_cast<std::uint64_t>(samples) *
                                        static_cast<std::uint64_t>(shape.splits * kMasks) *
                                        static_cast<std::uint64_t>(1 + fours) * 16;
    using Constant = shaders::profile_heads::Constant;
    const Specialization<Constant> constants(shape.lanes,
                                             {{Constant::dim4, u32(q.padded_dim / 4)},
                                              {Constant::lanes, shape.lanes},
                                              {Constant::samples, u32(shape.samples)},
                                              {Constant::frame0_apart, order.first_frame_apart},
                                              {Constant::sampled4, u32(fours)}});
    using ErrorsConstant = shaders::profile_errors::Constant;
    const Specialization<ErrorsConstant> errors_constants(lanes,
                                                          {{ErrorsConstant::sampled4, u32(fours)}});
    const int chunk = heads_per_dispatch(program, std::max(q.head_bytes(), partial_bytes), q.heads);
    for (int head = 0; head < q.heads; head += chunk) {
        const int heads = std::min(chunk, q.heads - head);
        const auto bind = [&](const HeadMatrix& m) { return operands(read_heads(m, head, heads)); };
        const Tensor partials =
            program.add(name + ".partials", partial_bytes * static_cast<std::uint64_t>(heads));
        program.dispatch(
            name, shape.shader, constants,
            {bind(q), bind(k), bind(v), read(blocks.sight), program::write(partials)},
            shaders::profile_heads::Push{.tokens = u32(q.tokens),
                                         .places = u32(order.tokens_per_frame),
                                         .q_stride = u32(q.token_stride),
                                         .kv_stride = u32(k.token_stride),
                                         .samples = u32(samples),
                                         .split_keys = u32(shape.split_keys),
                                         .scale = scale,
                                         .frames = u32(order.frames)},
            {ceil_div(u32(samples), u32(shape.group_samples)), u32(heads), u32(shape.splits)},
            2.0 * samples * q.tokens * (q.padded_dim + kMasks * 4 * fours) * heads,
            program::Cuts{true, true, false});  // partial results lie by the number of splits, z
        program.dispatch(
            name + ".errors", ShaderId::profile_errors, errors_constants,
            {read(partials), program::write(errors)},
            shaders::profile_errors::Push{.splits = u32(shape.splits), .first_head = u32(head)},
            {u32(samples), u32(heads), 1}, 48.0 * samples * shape.splits * fours * heads,
            program::Cuts{false, true, true});  // x counts the samples of a head
    }
    program.dispatch(name + ".types", ShaderId::profile_types, {lanes},
                     {read(errors), program::write(order.head_types)},
                     shaders::profile_types::Push{.heads = u32(q.heads), .samples = u32(samples)},
                     {ceil_div(u32(q.heads), lanes), 1, 1}, 2.0 * q.heads * samples);
    return errors;
}

}  // namespace quantsparse::kernels
