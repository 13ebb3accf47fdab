// Strided copies and elementwise operations: exact, or to a few units in the last place.
#include "kernels/copy.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support.hpp"

namespace quantsparse::tests {
namespace {

class CopyTest : public DeviceTest {
  protected:
    static Tensor add(Program& program, const char* name, int floats) {
        return program.add(name, static_cast<std::uint64_t>(floats) * 4, Lifetime::persistent);
    }
};

TEST_F(CopyTest, WholeMatricesInPlaceAndInChunks) {
    const int rows = 200, columns = 37;  // rows of 160 bytes, 64 of which fit the smaller binding
    for (const std::uint64_t binding : {std::uint64_t{1} << 20, std::uint64_t{12} << 10}) {
        program::Limits few = limits();
        few.max_binding_bytes = binding;
        Program program(few);
        const Matrix a = add_kept_matrix(program, "a", rows, columns),
                     before = add_kept_matrix(program, "before", rows, columns),
                     difference = add_kept_matrix(program, "difference", rows, columns);
        kernels::copy(program, "copy", a, before);
        kernels::subtract(program, "subtract", a, difference, difference);
        kernels::add(program, "add", a, before, a);
        EXPECT_EQ(program.operations().size(), binding == 1 << 20 ? 3u : 12u);
        Executor executor = executor_for(program);
        const auto x = random(rows, columns), y = random(rows, columns);
        write_matrix(executor, a, x);
        write_matrix(executor, difference, y);
        executor.run(0);
        EXPECT_EQ(read_matrix<float>(executor, before), x);
        auto doubled = x, expected = x;
        for (float& value : doubled) value *= 2;
        for (std::size_t i = 0; i < x.size(); ++i) expected[i] -= y[i];
        EXPECT_EQ(read_matrix<float>(executor, a), doubled);
        EXPECT_EQ(read_matrix<float>(executor, difference), expected);
    }
}

TEST_F(CopyTest, PermuteTransposesRandomShapes) {
    for (int repeat = 0; repeat < 12; ++repeat) {
        kernels::Permutation p;
        std::array<std::size_t, 5> order = {0, 1, 2, 3, 4};
        std::shuffle(order.begin(), order.end(), generator_);
        int count = 1;
        for (std::size_t d = 5; d-- > 0;) {
            p.size[d] = random_int(1, d == 4 ? 37 : 7);
            p.in_stride[d] = count;
            count *= p.size[d];
        }
        int stride = 1;
        for (const std::size_t d : order) {
            p.out_stride[d] = stride;
            stride *= p.size[d];
        }
        p.in_offset = random_int(0, 9);
        p.out_offset = random_int(0, 9);
        p.in_limit = repeat % 3 == 0 ? (p.size[4] + 1) / 2 : 0;
        Program program(limits());
        const Tensor in = add(program, "in", count + 10), out = add(program, "out", count + 10);
        kernels::permute(program, "permute", in, out, p);
        Executor executor = executor_for(program);
        const auto x = random(static_cast<std::size_t>(count + 10));
        write_tensor(executor, in, x);
        write_tensor(executor, out, std::vector<float>(static_cast<std::size_t>(count + 10), 7.0f));
        executor.run(0);
        std::vector<float> expected(static_cast<std::size_t>(count + 10), 7.0f);
        for (int i = 0; i < count; ++i) {
            int rest = i, from = p.in_offset, to = p.out_offset, innermost = 0;
            for (std::size_t d = 5; d-- > 0;) {
                const int index = rest % p.size[d];
                rest /= p.size[d];
                if (d == 4) innermost = index;
                from += index * p.in_stride[d];
                to += index * p.out_stride[d];
            }
            const bool zero = p.in_limit && innermost >= p.in_limit;
            expected[static_cast<std::size_t>(to)] = zero ? 0 : x[static_cast<std::size_t>(from)];
        }
        EXPECT_EQ(executor.read_values<float>(out, expected.size()), expected) << fmt::format(
            "sizes {} {} {} {} {}", p.size[0], p.size[1], p.size[2], p.size[3], p.size[4]);
    }
}

TEST_F(CopyTest, Elementwise) {
    for (const int count : {1, 3, 37, 130, 4097}) {
        const int period = 13, channels = 5, inner = 7;
        Program program(limits());
        const Tensor a = add(program, "a", count), b = add(program, "b", period);
        const Tensor factor = add(program, "factor", channels),
                     offset = add(program, "o", channels);
        const Tensor sum = add(program, "sum", count), silu = add(program, "silu", count),
                     scaled = add(program, "scaled", count), copied = add(program, "c", count + 64);
        kernels::add_repeated(program, "add", a, b, sum, count, period);
        kernels::apply_silu(program, "silu", a, silu, count);
        kernels::scale_channels(program, "scale", a, factor, offset, scaled, count, channels,
                                inner);
        kernels::copy(program, "copy", a, copied, count, 0, 64);
        Executor executor = executor_for(program);
        const std::size_t n = static_cast<std::size_t>(count);
        const auto x = random(n), y = random(std::size_t{period}),
                   f = random(std::size_t{channels}), o = random(std::size_t{channels});
        write_tensor(executor, a, x);
        write_tensor(executor, b, y);
        write_tensor(executor, factor, f);
        write_tensor(executor, offset, o);
        executor.run(0);
        std::vector<double> sums, silus, scales;
        for (std::size_t i = 0; i < n; ++i) {
            const double v = x[i];
            const std::size_t channel = i / inner % channels;
            sums.push_back(v + y[i % period]);
            silus.push_back(v / (1 + std::exp(-v)));
            scales.push_back(v * f[channel] + o[channel]);
        }
        const std::string what = fmt::format("{} elements", count);
        expect_close(executor.read_values<float>(sum, n), sums, 2e-7, what + ", add");
        expect_close(executor.read_values<float>(silu, n), silus, 2e-6, what + ", silu");
        expect_close(executor.read_values<float>(scaled, n), scales, 3e-7, what + ", scale");
        const auto copy = executor.read_values<float>(copied, n + 64);
        EXPECT_TRUE(std::equal(x.begin(), x.end(), copy.begin() + 64)) << what << ", copy";
    }
}

}  // namespace
}  // namespace quantsparse::tests
