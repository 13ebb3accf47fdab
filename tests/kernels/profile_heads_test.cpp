// The choice of heads' types on the device, against errors computed in full.
#include <fmt/format.h>
#include <cmath>

#include "block_attention_support.hpp"
#include "kernels/copy.hpp"

namespace quantsparse::tests {
namespace {

class HeadProfileTest : public BlockAttentionTest {};

TEST_F(HeadProfileTest, ProfilingPicksTheMaskThatChangesTheOutputLess) {
    // Every query is a sample, so the errors can be computed in full; heads 0 and 1 look along
    // space and time, the rest anywhere.
    const Shape s{6, 20, 6, 17};
    const int band = 21, sink = 17;
    Program program(limits());
    const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
               v = add_heads(program, "v", s);
    const Tensor types = program.add("types", 32, Lifetime::persistent);
    const BlockMask mask = band_mask(s.tokens(), band, sink, 64);
    const BlockList list = attention::declare_block_list(program, "list", mask);
    profile_heads(program, "profile", q, k, v, 1.0f, list, {types, s.frames, s.places}, s.tokens());
    Executor executor = executor_for(program);
    Operands x = random_operands(s);
    for (int t = 0; t < s.tokens(); ++t) {
        for (int h = 0; h < 2; ++h) {
            const int group = h == 0 ? t / s.places : t % s.places;
            for (int c = 0; c < s.head_dim; ++c) {
                const float value = c == group % s.head_dim ? 3.0f : 0.0f;
                x.q[at(h * s.tokens() + t, c, s.head_dim)] = value;
                x.k[at(h * s.tokens() + t, c, s.head_dim)] = value;
            }
        }
    }
    const std::vector<std::uint32_t> spatial(6, 0);
    write_operands(executor, s, q, k, v, x, spatial);
    write_block_list(executor, list, mask);
    executor.run(0);

    const auto sees = [&](int i, int j) { return std::abs(i - j) <= band || j < sink; };
    const auto full = reference(s, x, 1.0f, [](int, int, int) { return true; });
    const auto along_space = reference(s, x, 1.0f, [&](int, int i, int j) { return sees(i, j); });
    const auto along_time = reference(
        s, x, 1.0f, [&](int, int i, int j) { return sees(s.place_index(i), s.place_index(j)); });
    const auto decided = executor.read_values<std::uint32_t>(types, 6);
    EXPECT_EQ(decided[0], 0u);
    EXPECT_EQ(decided[1], 1u);
    for (int h = 0; h < s.heads; ++h) {
        double space = 0, time = 0;
        for (int t = 0; t < s.tokens(); ++t) {
            for (int c = 0; c < s.head_dim; ++c) {
                const std::size_t i = at(t, h * s.head_dim + c, s.heads * s.head_dim);
                space += std::pow(along_space[i] - full[i], 2);
                time += std::pow(along_time[i] - full[i], 2);
            }
        }
        if (std::abs(space - time) > 1e-4 * (space + time)) {
            EXPECT_EQ(decided[static_cast<std::size_t>(h)], time < space ? 1u : 0u) << "head " << h;
        }
    }
}

TEST_F(HeadProfileTest, ProfiledErrorsAreThoseOfTheSampledQueries) {
    // Keys in several splits, samples that don't fill a work-group, heads of every width that has
    // a shape of its own, heads bound a few at a time.
    struct Case {
        Shape shape;
        int samples;
        std::uint64_t binding_limit;
    };
    const auto hash = [](std::uint32_t x) {  // as profile.glsl draws queries
        x = (x ^ (x >> 16)) * 0x7feb352du;
        x = (x ^ (x >> 15)) * 0x846ca68bu;
        return x ^ (x >> 16);
    };
    for (const Case& c :
         {Case{{2, 20, 6, 153}, 11, 0}, Case{{3, 64, 9, 64}, 64, 200 << 10},
          Case{{1, 136, 4, 150}, 5, 0}, Case{{1, 260, 530, 1}, 3, 0}, Case{{2, 8, 1, 40}, 64, 0}}) {
        const Shape& s = c.shape;
        const int band = s.tokens() / 9, sink = s.places;
        auto device_limits = limits();
        if (c.binding_limit) device_limits.max_binding_bytes = c.binding_limit;
        Program program(device_limits);
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const int samples = std::min(c.samples, s.tokens());
        const std::size_t count = at(s.heads * samples, 0, 2);
        const Tensor types =
            program.add("types", static_cast<std::uint64_t>(s.heads) * 4, Lifetime::persistent);
        const Tensor kept = program.add("kept", count * 4, Lifetime::persistent);
        const BlockMask mask = band_mask(s.tokens(), band, sink, 64);
        const BlockList list = attention::declare_block_list(program, "list", mask);
        const float scale = 3.0f / std::sqrt(static_cast<float>(s.head_dim));
        const Tensor errors = profile_heads(program, "profile", q, k, v, scale, list,
                                            {types, s.frames, s.places, s.apart}, c.samples);
        kernels::keep_bits(program, errors, kept, static_cast<int>(count));
        Executor executor = executor_for(program);
        const Operands x = random_operands(s);
        const std::vector<std::uint32_t> spatial(static_cast<std::size_t>(s.heads), 0);
        write_operands(executor, s, q, k, v, x, spatial);
        write_block_list(executor, list, mask);
        executor.run(0);

        const auto sees = [&](int i, int j) { return std::abs(i - j) <= band || j < sink; };
        const auto full = reference(s, x, scale, [](int, int, int) { return true; });
        const auto space = reference(s, x, scale, [&](int, int i, int j) { return sees(i, j); });
        const auto time = reference(s, x, scale, [&](int, int i, int j) {
            return sees(s.place_index(i), s.place_index(j));
        });
        std::vector<double> expected;
        for (int h = 0; h < s.heads; ++h) {
            for (int i = 0; i < samples; ++i) {
                const int begin = i * s.tokens() / samples, end = (i + 1) * s.tokens() / samples;
                const int query = begin + static_cast<int>(hash(static_cast<std::uint32_t>(i)) %
                                                           static_cast<unsigned>(end - begin));
                const int fours = (s.head_dim + 3) / 4, sampled = std::min(fours, 8);
                for (const auto& masked : {space, time}) {
                    double error = 0;
                    for (int n = 0; n < 4 * sampled; ++n) {
                        const int d = n / 4 * fours / sampled * 4 + n % 4;
                        if (d >= s.head_dim) continue;
                        const std::size_t column =
                            at(query, h * s.head_dim + d, s.heads * s.head_dim);
                        error += std::pow(masked[column] - full[column], 2);
                    }
                    expected.push_back(error);
                }
            }
        }
        std::vector<double> tolerance;
        for (const double e : expected) tolerance.push_back(1e-4 * e + 1e-9);
        expect_close(executor.read_values<float>(kept, count), expected, tolerance,
                     fmt::format("{} heads of {}, {} frames of {}", s.heads, s.head_dim, s.frames,
                                 s.places));
    }
}

}  // namespace
}  // namespace quantsparse::tests
