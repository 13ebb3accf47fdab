// Convolution and channel normalisation of the video VAE against plain loops.
#include "kernels/pictures.hpp"

#include <fmt/format.h>
#include <cmath>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

using kernels::Pictures;

struct Conv {
    int frames, in_channels, height, width, out_channels;
    std::array<int, 3> kernel;  ///< time, rows, columns
    int stride = 1, frame_stride = 1, pad = 0;
    bool enlarge = false, split_frames = false, residual = false;
    int out_height = 0, out_width = 0;
};

std::size_t index(const Pictures& p, int frame, int channel, int y, int x) {
    return static_cast<std::size_t>(((frame * p.channels + channel) * p.height + y) * p.width + x);
}

class PicturesTest : public DeviceTest {
  protected:
    void check(const Conv& c) {
        const auto [kernel_t, kernel_y, kernel_x] = c.kernel;
        const std::string what = fmt::format(
            "{}x{}x{}x{} to {} channels of {}x{}, kernel {}x{}x{}, stride {} {}, enlarge "
            "{}, split {}, residual {}",
            c.frames, c.in_channels, c.height, c.width, c.out_channels, c.out_height, c.out_width,
            kernel_t, kernel_y, kernel_x, c.stride, c.frame_stride, c.enlarge, c.split_frames,
            c.residual);
        const int positions = (c.frames - kernel_t) / c.frame_stride + 1;
        Program program(limits());
        const Pictures in = kernels::add_pictures(program, "in", c.frames, c.in_channels, c.height,
                                                  c.width, Lifetime::persistent);
        const int out_frames = c.split_frames ? 2 * positions : positions;
        const int out_channels = c.split_frames ? c.out_channels / 2 : c.out_channels;
        const auto add_output = [&](const char* name) {
            return kernels::add_pictures(program, name, out_frames, out_channels, c.out_height,
                                         c.out_width, Lifetime::persistent);
        };
        const Pictures out = add_output("out"), residual = add_output("residual");
        const auto weight = kernels::add_conv_weight(program, "w", c.out_channels, c.in_channels,
                                                     kernel_t, kernel_y, kernel_x);
        kernels::ConvOptions options;
        options.stride = c.stride;
        options.frame_stride = c.frame_stride;
        options.pad = c.pad;
        options.enlarge = c.enlarge;
        options.split_frames = c.split_frames;
        options.residual = c.residual ? &residual : nullptr;
        kernels::convolve(program, "conv", in, weight, out, options);
        Executor executor = executor_for(program);

        const auto x = random(static_cast<std::size_t>(in.frames * in.frame_floats()));
        const auto added = random(static_cast<std::size_t>(out.frames * out.frame_floats()));
        const int taps = kernel_t * kernel_y * kernel_x;
        const auto w = random(c.out_channels, c.in_channels * taps),
                   bias = random(1, c.out_channels);
        write_tensor(executor, in.tensor, x);
        if (c.residual) write_tensor(executor, residual.tensor, added);
        const int padded = kernels::round_up(c.out_channels, 8);
        std::vector<float> packed(at(taps * c.in_channels, 0, padded), 0.0f);
        for (int o = 0; o < c.out_channels; ++o) {
            for (int i = 0; i < c.in_channels; ++i) {
                for (int tap = 0; tap < taps; ++tap) {
                    packed[at(tap * c.in_channels + i, o, padded)] =
                        w[at(o, i * taps + tap, c.in_channels * taps)];
                }
            }
        }
        write_tensor(executor, weight.weights, packed);
        write_tensor(executor, weight.bias, bias);
        executor.run(0);

        std::vector<double> expected(added.size());
        const int up = c.enlarge ? 1 : 0;
        for (int f = 0; f < positions; ++f) {
            for (int o = 0; o < c.out_channels; ++o) {
                const int to_frame = c.split_frames ? 2 * f + o / out_channels : f;
                for (int oy = 0; oy < c.out_height; ++oy) {
                    for (int ox = 0; ox < c.out_width; ++ox) {
                        double sum = bias[static_cast<std::size_t>(o)];
                        for (int tap = 0; tap < taps; ++tap) {
                            const int kt = tap / (kernel_y * kernel_x);
                            const int y = oy * c.stride - c.pad + tap / kernel_x % kernel_y;
                            const int col = ox * c.stride - c.pad + tap % kernel_x;
                            if (y < 0 || col < 0 || y >> up >= c.height || col >> up >= c.width)
                                continue;
                            for (int i = 0; i < c.in_channels; ++i) {
                                sum += static_cast<double>(x[index(in, f * c.frame_stride + kt, i,
                                                                   y >> up, col >> up)]) *
                                       static_cast<double>(
                                           w[at(o, i * taps + tap, c.in_channels * taps)]);
                            }
                        }
                        const std::size_t target = index(out, to_frame, o % out_channels, oy, ox);
                        expected[target] = sum + (c.residual ? added[target] : 0.0f);
                    }
                }
            }
        }
        expect_close(executor.read_values<float>(out.tensor, expected.size()), expected,
                     2e-6 * (taps * c.in_channels * 0.3 + 2), what);
    }
};

Conv same_size(int frames, int in_channels, int height, int width, int out_channels, int kernel) {
    Conv c{frames, in_channels, height, width, out_channels, {kernel, kernel, kernel}};
    c.pad = kernel / 2;
    c.out_height = height;
    c.out_width = width;
    return c;
}

TEST_F(PicturesTest, CausalConvolution) {
    check(same_size(3, 1, 1, 1, 1, 3));
    check(same_size(4, 3, 13, 37, 13, 3));
    check(same_size(5, 13, 7, 5, 8, 3));
    check(same_size(1, 3, 65, 66, 3, 1));
    Conv c = same_size(3, 5, 9, 130, 17, 3);
    c.residual = true;
    check(c);
}

TEST_F(PicturesTest, EnlargedWhileRead) {
    Conv c{2, 5, 7, 13, 6, {1, 3, 3}};
    c.pad = 1;
    c.enlarge = true;
    c.out_height = 14;
    c.out_width = 26;
    check(c);
    c.residual = true;
    check(c);
}

TEST_F(PicturesTest, StridedInSpace) {
    for (const auto& [height, width] :
         std::initializer_list<std::array<int, 2>>{{8, 12}, {2, 130}}) {
        Conv c{2, 3, height, width, 5, {1, 3, 3}, 2};  // zeros after the last row and column only
        c.out_height = height / 2;
        c.out_width = width / 2;
        check(c);
    }
}

TEST_F(PicturesTest, StridedInTimeAndSplitFrames) {
    Conv down{7, 6, 5, 3, 4, {3, 1, 1}, 1, 2};
    down.out_height = 5;
    down.out_width = 3;
    check(down);
    Conv up{5, 6, 5, 13, 12, {3, 1, 1}};
    up.split_frames = true;
    up.out_height = 5;
    up.out_width = 13;
    check(up);
    up.residual = true;
    up.out_channels = 26;
    check(up);
}

TEST_F(PicturesTest, NormalizeChannels) {
    for (const auto& [frames, channels, height, width] : std::initializer_list<std::array<int, 4>>{
             {1, 1, 1, 1}, {3, 13, 5, 7}, {2, 37, 13, 10}, {1, 65, 1, 3}}) {
        for (const int history : {0, 2}) {
            const bool silu = history == 0;
            Program program(limits());
            const Pictures in = kernels::add_pictures(program, "in", frames, channels, height,
                                                      width, Lifetime::persistent);
            const Pictures out = kernels::add_pictures(program, "out", frames + history, channels,
                                                       height, width, Lifetime::persistent);
            const Tensor gamma =
                program.add("gamma", static_cast<std::uint64_t>(channels) * 4, Lifetime::constant);
            kernels::normalize_channels(program, "norm", in, gamma, out, silu, history);
            Executor executor = executor_for(program);
            auto x = random(static_cast<std::size_t>(frames * in.frame_floats()));
            for (int c = 0; c < channels; ++c)
                x[index(in, 0, c, 0, 0)] = 0;  // norm zero: stays finite
            const auto g = random(1, channels);
            write_tensor(executor, in.tensor, x);
            write_tensor(executor, gamma, g);
            const std::size_t before = static_cast<std::size_t>(history * out.frame_floats());
            write_tensor(executor, out.tensor, std::vector<float>(before + x.size(), 7.0f));
            executor.run(0);
            std::vector<double> expected(before + x.size(), 7.0);
            for (int f = 0; f < frames; ++f) {
                for (int y = 0; y < height; ++y) {
                    for (int col = 0; col < width; ++col) {
                        double squares = 0;
                        for (int c = 0; c < channels; ++c)
                            squares += std::pow(x[index(in, f, c, y, col)], 2);
                        for (int c = 0; c < channels; ++c) {
                            const std::size_t i = index(in, f, c, y, col);
                            double value = x[i] / std::max(std::sqrt(squares), 1e-12) *
                                           std::sqrt(channels) * g[static_cast<std::size_t>(c)];
                            if (silu) value /= 1 + std::exp(-value);
                            expected[before + i] = value;
                        }
                    }
                }
            }
            expect_close(executor.read_values<float>(out.tensor, expected.size()), expected, 1e-5,
                         fmt::format("{} channels, history {}", channels, history));
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
