// Which kernel runs a call of attention: decided from the device's limits alone, so no device is
// needed.
#include "kernels/attention_kernel.hpp"

#include <gtest/gtest.h>

namespace quantsparse::tests {
namespace {

using kernels::AttentionKernel;
using program::Limits;

/// A device with matrix units of 16x16x16 and subgroups of 32 lanes.
Limits matrix_limits(std::uint32_t shared_bytes) {
    Limits limits;
    limits.arithmetic = Arithmetic::matrix;
    limits.matrix_half = {16, 16, 16};
    limits.subgroup = 32;
    limits.max_invocations = 1024;
    limits.shared_bytes = shared_bytes;
    return limits;
}

Limits cpu_limits() {
    Limits limits;
    limits.runs_on_cpu = true;
    return limits;
}

struct Call {
    int head_dim = 128;
    int tokens = 1000;
    bool texels = false;
    bool bias = false;
    AttentionProducts products = AttentionProducts::full;

    const AttentionKernel* kernel(const Limits& limits) const {
        program::Program program(limits);
        const auto heads = kernels::add_head_matrix(program, "heads", 2, tokens, head_dim);
        const auto out = kernels::add_matrix(program, "out", tokens, 2 * head_dim);
        kernels::AttentionOptions options;
        options.products = products;
        if (bias) options.bias = heads.tensor;
        kernels::AttentionCall call{heads, heads, heads, out, options};
        call.keys = tokens;
        call.texels = texels;
        return &kernels::attention_kernel(limits, call);
    }
};

TEST(AttentionKernel, MatrixUnitsNeedSharedMemoryForTheirTiles) {
    // 32 keys and values of 128 halves in rows of 272 bytes, and scores of 8 x 16 queries in rows
    // of 144.
    constexpr std::uint32_t kNeeded = 2 * 32 * 272 + 128 * 144;
    static_assert(kNeeded == 35840);
    EXPECT_EQ(Call{}.kernel(matrix_limits(kNeeded)), &kernels::attention_matrix());
    EXPECT_EQ(Call{}.kernel(matrix_limits(kNeeded - 1)), &kernels::attention_tiled());
    EXPECT_EQ(Call{.head_dim = 64}.kernel(matrix_limits(kNeeded - 1)),
              &kernels::attention_matrix());
    // Narrower work-groups have fewer queries, so fewer scores.
    Limits narrow = matrix_limits(kNeeded - 1);
    narrow.max_invocations = 128;
    EXPECT_EQ(Call{}.kernel(narrow), &kernels::attention_matrix());
}

TEST(AttentionKernel, MatrixUnitsLeaveWhatTheyHaveNoModuleFor) {
    const Limits limits = matrix_limits(65536);
    EXPECT_EQ(Call{}.kernel(limits), &kernels::attention_matrix());
    EXPECT_EQ(Call{.head_dim = 88}.kernel(limits), &kernels::attention_tiled());
    EXPECT_EQ(Call{.tokens = 8}.kernel(limits), &kernels::attention_tiled());
    EXPECT_EQ(Call{.bias = true}.kernel(limits), &kernels::attention_tiled());
    EXPECT_EQ(Call{.products = AttentionProducts::int8}.kernel(limits),
              &kernels::attention_tiled());
}

TEST(AttentionKernel, CpuDriversKeepQueriesPrivateWhereItPays) {
    EXPECT_EQ(Call{}.kernel(cpu_limits()), &kernels::attention_private());
    EXPECT_EQ(Call{.tokens = 100}.kernel(cpu_limits()), &kernels::attention_tiled());
    const Call through_texels{.tokens = 100, .texels = true};
    EXPECT_EQ(through_texels.kernel(cpu_limits()), &kernels::attention_private());
    EXPECT_EQ(Call{.head_dim = 132}.kernel(cpu_limits()), &kernels::attention_tiled());
    EXPECT_EQ(Call{.products = AttentionProducts::int8_qk}.kernel(cpu_limits()),
              &kernels::attention_tiled());
    EXPECT_EQ(Call{}.kernel(Limits{}), &kernels::attention_tiled());
}

}  // namespace
}  // namespace quantsparse::tests
