#include <shaders/conv3d.hpp>

#include "kernels/pictures.hpp"
#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

/// Pixels an invocation computes. Weights are loaded once for all of them, which pays on CPU
/// drivers, where every load is taken apart; small pictures would leave invocations idle.
std::uint32_t pixels_per_invocation(const Program& program, int plane) {
    if (!program.limits().runs_on_cpu) return 4;
    return plane >= 4096 ? 16 : 8;
}

}  // namespace

Pictures add_pictures(Program& program, const std::string& name, int frames, int channels,
                      int height, int width, program::Lifetime lifetime) {
    Pictures pictures{{}, frames, channels, height, width};
    pictures.tensor = program.add(name, pictures.bytes(), lifetime);
    return pictures;
}

ConvWeight add_conv_weight(Program& program, const std::string& name, int out_channels,
                           int in_channels, int kernel_t, int kernel_y, int kernel_x) {
    ConvWeight weight{name, out_channels, in_channels, kernel_t, kernel_y, kernel_x, {}, {}};
    const std::uint64_t padded = static_cast<std::uint64_t>(round_up(out_channels, 8));
    const std::uint64_t taps = static_cast<std::uint64_t>(kernel_t * kernel_y * kernel_x);
    weight.weights = program.add(name, taps * static_cast<std::uint64_t>(in_channels) * padded * 4,
                                 program::Lifetime::constant);
    weight.bias = program.add(name + ".bias", padded * 4, program::Lifetime::constant);
    return weight;
}

void convolve(Program& program, const std::string& name, const Pictures& input,
              const ConvWeight& weight, const Pictures& out, const ConvOptions& options) {
    using Constant = shaders::conv3d::Constant;
    const std::uint32_t lanes = program.limits().runs_on_cpu ? 8 : 32;
    const int out_frames = options.split_frames ? out.frames / 2 : out.frames;
    const shaders::conv3d::Push push = {.in_channels = u32(weight.in_channels),
                                        .out_channels = u32(weight.out_channels),
                                        .in_height = u32(input.height),
                                        .in_width = u32(input.width),
                                        .out_height = u32(out.height),
                                        .out_width = u32(out.width),
                                        .kernel_t = u32(weight.kernel_t),
                                        .kernel_y = u32(weight.kernel_y),
                                        .kernel_x = u32(weight.kernel_x),
                                        .stride = u32(options.stride),
                                        .frame_stride = u32(options.frame_stride),
                                        .pad_y = u32(options.pad),
                                        .pad_x = u32(options.pad),
                                        .up = options.enlarge,
                                        .split_frames = options.split_frames};
    const std::uint32_t pixels = pixels_per_invocation(program, out.plane());
    const double taps = weight.kernel_t * weight.kernel_y * weight.kernel_x;
    program.dispatch(
        name, shaders::ShaderId::conv3d,
        Specialization<Constant>(lanes, {{Constant::pixels, pixels},
                                         {Constant::has_residual, options.residual != nullptr}}),
        {program::read(input.tensor, 0, input.bytes()), program::read(weight.weights),
         program::read(weight.bias),
         options.residual ? program::read(options.residual->tensor, 0, options.residual->bytes())
                          : program::unused(input.tensor),
         program::write(out.tensor, 0, out.bytes())},
        push,
        {ceil_div(static_cast<std::uint64_t>(out.plane()), lanes * pixels),
         ceil_div(static_cast<std::uint64_t>(weight.out_channels), 8), u32(out_frames)},
        2.0 * taps * weight.in_channels * weight.out_channels * out_frames * out.plane());
}

}  // namespace quantsparse::kernels
