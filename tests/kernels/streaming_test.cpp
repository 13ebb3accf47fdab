// Groups streamed from host memory give the same bits as resident ones, on any path to the device.
#include <fmt/format.h>

#include "kernels/copy.hpp"
#include "program/residency.hpp"
#include "support.hpp"

namespace quantsparse::tests {
namespace {

using program::Residency;
using program::StreamGroup;

/// Layers with weights and a state each: x += w; s += x; and a second phase over the same state.
struct Layers {
    static constexpr int kCount = 5, kFloats = 96 * 1024;

    explicit Layers(const program::Limits& limits) : program(limits) {
        constexpr std::uint64_t kBytes = kFloats * 4;
        x = program.add("x", kBytes, Lifetime::persistent);
        zero = program.add("zero", 16, Lifetime::persistent);
        for (int i = 0; i < kCount; ++i) {
            const std::string layer = fmt::format("layer {}", i);
            {
                const Program::Grouping grouping(program, {StreamGroup::Kind::weights, layer});
                weights.push_back(program.add(layer + " weight", kBytes, Lifetime::constant));
            }
            const Program::Grouping grouping(program, {StreamGroup::Kind::residuals, layer});
            small.push_back(program.add(layer + " small", 20, Lifetime::persistent));
            states.push_back(program.add(layer + " state", kBytes, Lifetime::persistent));
        }
        for (const char* phase : {"first", "second"}) {
            program.begin_phase(phase);
            for (std::size_t i = 0; i < kCount; ++i) {
                const Tensor next = program.add("next", kBytes), sum = program.add("sum", kBytes);
                kernels::add_repeated(program, "x + w", x, weights[i], next, kFloats, kFloats);
                kernels::copy(program, "x", next, x, kFloats);
                kernels::add_repeated(program, "s + x", states[i], x, sum, kFloats, kFloats);
                kernels::copy(program, "s", sum, states[i], kFloats);
                kernels::add_repeated(program, "t", small[i], zero, sum, 4, 4);
            }
        }
    }

    Program program;
    Tensor x, zero;
    std::vector<Tensor> weights, states, small;
};

class StreamingTest : public DeviceTest {
  protected:
    /// x and all states after a few runs with host writes in between.
    std::vector<std::vector<float>> results(const Layers& layers, const Residency& residency,
                                            bool staging = false, bool profile = false) {
        generator_.seed(7);
        Executor executor(device().internal(), layers.program, profile, staging, residency);
        write_tensor(executor, layers.x, random(Layers::kFloats));
        executor.clear(layers.zero);
        for (std::size_t i = 0; i < Layers::kCount; ++i) {
            write_tensor(executor, layers.weights[i], random(Layers::kFloats));
            write_tensor(executor, layers.states[i], random(Layers::kFloats));
            executor.clear(layers.small[i]);
        }
        executor.run(0);
        executor.run(1);
        executor.clear(layers.states[2]);
        write_tensor(executor, layers.weights[3], random(Layers::kFloats));
        executor.run(0);
        std::vector<std::vector<float>> all = {
            executor.read_values<float>(layers.x, Layers::kFloats)};
        for (const Tensor state : layers.states) {
            all.push_back(executor.read_values<float>(state, Layers::kFloats));
        }
        executor.run(1);
        for (const Tensor state : layers.states) {
            all.push_back(executor.read_values<float>(state, Layers::kFloats));
        }
        return all;
    }
};

TEST_F(StreamingTest, SameBitsAsResident) {
    const Layers layers(limits());
    const auto resident = results(layers, {});
    const std::size_t groups = layers.program.stream_groups().size();
    for (int pattern = 0; pattern < 4; ++pattern) {
        Residency residency;
        residency.streamed.assign(groups, pattern == 0);
        for (std::size_t g = 0; g < groups && pattern > 0; ++g) {
            const auto kind = layers.program.stream_groups()[g].kind;
            residency.streamed[g] =
                pattern == 3 ? g % 4 < 3 : (kind == StreamGroup::Kind::weights) == (pattern == 1);
        }
        for (const bool staging : {false, true}) {
            EXPECT_EQ(results(layers, residency, staging), resident)
                << "pattern " << pattern << (staging ? ", as on a discrete GPU" : "");
        }
        if (device().info().timestamps) {
            EXPECT_EQ(results(layers, residency, false, true), resident) << "profiled";
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
