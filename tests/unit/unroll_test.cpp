// Unrolling for drivers that unroll nothing. That it changes no result is what every kernel test
// says on such a driver.
#include "vulkan/unroll.hpp"

#include <gtest/gtest.h>
#include <algorithm>

#include "shaders/registry.hpp"

namespace quantsparse::tests {
namespace {

/// How many instructions of a module have an opcode.
int count(const std::vector<std::uint32_t>& module, std::uint32_t opcode) {
    constexpr std::size_t kHeaderWords = 5;
    int found = 0;
    for (std::size_t i = kHeaderWords; i < module.size(); i += std::max(module[i] >> 16, 1u)) {
        found += (module[i] & 0xFFFF) == opcode;
    }
    return found;
}

constexpr std::uint32_t kSpecConstant = 50, kLoopMerge = 246, kIMul = 132;

TEST(UnrollTest, FixesConstantsAndUnrolls) {
    const auto words = shaders::shader_code(shaders::ShaderId::gemm_quantized_pairs_w4).words;
    const std::vector<std::uint32_t> original(words.begin(), words.end());
    const auto flat = vulkan::unrolled(words, {8, 2, 0, 1, 0, 0, 0, 0, 0});
    if (flat.empty()) GTEST_SKIP() << "built without SPIRV-Tools' optimiser";
    EXPECT_GT(count(original, kSpecConstant), 0);
    EXPECT_EQ(count(flat, kSpecConstant), 0);
    EXPECT_EQ(count(flat, kLoopMerge), 1);  // over K
    // 2 rows, 16 codes, 2 pairs of columns; a vector of two takes one instruction or two.
    EXPECT_GE(count(flat, kIMul), 2 * 16);
}

TEST(UnrollTest, WhatIsNoModuleStaysAsItIs) {
    const std::vector<std::uint32_t> garbage(64, 0xDEADBEEF);
    EXPECT_TRUE(vulkan::unrolled(garbage, {1, 2}).empty());
    EXPECT_TRUE(vulkan::unrolled({}, {}).empty());
}

}  // namespace
}  // namespace quantsparse::tests
