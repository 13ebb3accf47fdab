#include <shaders/norm_channels.hpp>

#include "kernels/pictures.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {

void normalize_channels(Program& program, const std::string& name, const Pictures& input,
                        Tensor gamma, const Pictures& out, bool silu, int first_frame) {
    using Constant = shaders::norm_channels::Constant;
    const std::uint32_t lanes = program.limits().runs_on_cpu ? 16 : 64;
    program.dispatch(
        name, shaders::ShaderId::norm_channels,
        Specialization<Constant>(lanes, {{Constant::silu, silu}}),
        {program::read(input.tensor, 0, input.bytes()), program::read(gamma),
         program::write(out.tensor, 0, out.bytes())},
        shaders::norm_channels::Push{
            .channels = u32(input.channels),
            .plane = u32(input.plane()),
            .out_offset = static_cast<std::uint32_t>(first_frame * out.frame_floats())},
        {ceil_div(static_cast<std::uint64_t>(input.plane()), lanes), u32(input.frames), 1},
        12.0 * input.frames * input.frame_floats());
}

}  // namespace quantsparse::kernels
