#include "kernels/pictures.hpp"

namespace quantsparse::kernels {
namespace {

struct ConvPush {
    std::uint32_t in_channels, out_channels, in_height, in_width, out_height, out_width, kernel_t,
        kernel_y, kernel_x, stride, frame_stride, pad_y, pad_x, up, split_frames;
};
static_assert(sizeof(ConvPush) == 60, "conv3d.comp declares the same block");

struct NormPush {
    std::uint32_t channels, plane, out_offset;
};

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
    const std::uint32_t lanes = program.limits().runs_on_cpu ? 8 : 32;
    const int out_frames = options.split_frames ? out.frames / 2 : out.frames;
    const ConvPush push = {static_cast<std::uint32_t>(weight.in_channels),
                           static_cast<std::uint32_t>(weight.out_channels),
                           static_cast<std::uint32_t>(input.height),
                           static_cast<std::uint32_t>(input.width),
                           static_cast<std::uint32_t>(out.height),
                           static_cast<std::uint32_t>(out.width),
                           static_cast<std::uint32_t>(weight.kernel_t),
                           static_cast<std::uint32_t>(weight.kernel_y),
                           static_cast<std::uint32_t>(weight.kernel_x),
                           static_cast<std::uint32_t>(options.stride),
                           static_cast<std::uint32_t>(options.frame_stride),
                           static_cast<std::uint32_t>(options.pad),
                           static_cast<std::uint32_t>(options.pad),
                           options.enlarge ? 1u : 0u,
                           options.split_frames ? 1u : 0u};
    const std::uint32_t pixels = pixels_per_invocation(program, out.plane());
    const double taps = weight.kernel_t * weight.kernel_y * weight.kernel_x;
    program.dispatch(
        name, shaders::ShaderId::conv3d, {lanes, pixels, options.residual != nullptr},
        {program::read(input.tensor, 0, input.bytes()), program::read(weight.weights),
         program::read(weight.bias),
         options.residual ? program::read(options.residual->tensor, 0, options.residual->bytes())
                          : program::unused(input.tensor),
         program::write(out.tensor, 0, out.bytes())},
        push,
        {ceil_div(static_cast<std::uint64_t>(out.plane()), lanes * pixels),
         ceil_div(static_cast<std::uint64_t>(weight.out_channels), 8),
         static_cast<std::uint32_t>(out_frames)},
        2.0 * taps * weight.in_channels * weight.out_channels * out_frames * out.plane());
}

void normalize_channels(Program& program, const std::string& name, const Pictures& input,
                        Tensor gamma, const Pictures& out, bool silu, int first_frame) {
    const std::uint32_t lanes = program.limits().runs_on_cpu ? 16 : 64;
    program.dispatch(name, shaders::ShaderId::norm_channels, {lanes, silu},
                     {program::read(input.tensor, 0, input.bytes()), program::read(gamma),
                      program::write(out.tensor, 0, out.bytes())},
                     NormPush{static_cast<std::uint32_t>(input.channels),
                              static_cast<std::uint32_t>(input.plane()),
                              static_cast<std::uint32_t>(first_frame * out.frame_floats())},
                     {ceil_div(static_cast<std::uint64_t>(input.plane()), lanes),
                      static_cast<std::uint32_t>(input.frames), 1},
                     12.0 * input.frames * input.frame_floats());
}

}  // namespace quantsparse::kernels
