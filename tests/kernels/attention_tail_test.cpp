// Blocks that attention leaves out, joined as their means, against the definition.
#include <fmt/format.h>

#include "block_attention_support.hpp"
#include "kernels/block_choice.hpp"

namespace quantsparse::tests {
namespace {

using kernels::BlockRule;

class AttentionTailTest : public BlockAttentionTest {
  protected:
    static constexpr float kScale = 0.3f;
    using Words = std::vector<std::uint32_t>;

    struct Result {
        std::vector<float> with_tail, without;
        Words choice;
    };

    Result run(const Shape& s, const Operands& x, const BlockRule& rule,
               std::uint64_t binding_limit = 0) {
        auto device_limits = limits();
        if (binding_limit) device_limits.max_binding_bytes = binding_limit;
        Program program(device_limits);
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const Tensor choice =
            program.add("choice", rule.choice_bytes(s.heads), Lifetime::persistent);
        const Tensor sight = program.add("sight", kernels::sight_bytes(rule), Lifetime::persistent);
        const int width = s.heads * s.head_dim;
        const Matrix with_tail = add_kept_matrix(program, "with_tail", s.tokens(), width);
        const Matrix without = add_kept_matrix(program, "without", s.tokens(), width);
        kernels::choose_blocks(program, "choose", q, k, kScale, rule, choice);
        const BlockList list = kernels::list_blocks(program, "list", choice, s.heads, rule, sight);
        kernels::AttentionOptions options;
        options.scale = kScale;
        options.blocks = &list;
        kernels::attention(program, "without", q, k, v, without, options);
        const kernels::AttentionTail tail{kernels::pool_blocks(program, "pool_k", k, rule),
                                          kernels::pool_blocks(program, "pool_v", v, rule), choice};
        options.tail = &tail;
        kernels::attention(program, "with_tail", q, k, v, with_tail, options);
        Executor executor = executor_for(program);
        executor.clear(sight);
        write_operands(executor, s, q, k, v, x,
                       std::vector<std::uint32_t>(static_cast<std::size_t>(s.heads), 0));
        executor.run(0);
        EXPECT_TRUE(padding_is_zero(executor, with_tail));
        return {read_matrix<float>(executor, with_tail), read_matrix<float>(executor, without),
                executor.read_values<std::uint32_t>(choice, rule.choice_bytes(s.heads) / 4)};
    }

    static BlockRule rule_for(int tokens, int block, int keep) {
        BlockRule rule;
        rule.tokens = tokens;
        rule.block = block;
        rule.suffix = rule.full_begin = rule.blocks();
        rule.keep = keep;
        rule.reach = 0;
        return rule;
    }

    /// Values [heads, blocks, head_dim]: the mean of each block.
    static std::vector<double> means_of(const Shape& s, const std::vector<float>& values,
                                        const BlockRule& rule) {
        std::vector<double> means(at(s.heads * rule.blocks(), 0, s.head_dim));
        for (int row = 0; row < s.heads * s.tokens(); ++row) {
            const int token = row % s.tokens(), block = token / rule.block;
            const int count = std::min(rule.block, s.tokens() - block * rule.block);
            for (int c = 0; c < s.head_dim; ++c) {
                means[at(row / s.tokens() * rule.blocks() + block, c, s.head_dim)] +=
                    static_cast<double>(values[at(row, c, s.head_dim)]) / count;
            }
        }
        return means;
    }

    /// Of the blocks that the row of each query has all keys, of each other block its mean.
    static std::vector<double> expected(const Shape& s, const Operands& x, const BlockRule& rule,
                                        const Words& choice) {
        const int tokens = s.tokens(), blocks = rule.blocks(), d = s.head_dim;
        const auto k_means = means_of(s, x.k, rule), v_means = means_of(s, x.v, rule);
        std::vector<double> out(s.count());
        for (int line = 0; line < s.heads * tokens; ++line) {
            const int h = line / tokens, i = line % tokens;
            double total = 0;
            std::vector<double> y(static_cast<std::size_t>(d));
            const auto add = [&](double count, const auto& keys, const auto& values, int row) {
                double score = std::log(count);
                for (int c = 0; c < d; ++c) {
                    score += static_cast<double>(kScale) *
                             static_cast<double>(x.q[at(line, c, d)]) *
                             static_cast<double>(keys[at(row, c, d)]);
                }
                const double weight = std::exp(score);
                total += weight;
                for (int c = 0; c < d; ++c) {
                    y[at(0, c, d)] += weight * static_cast<double>(values[at(row, c, d)]);
                }
            };
            for (int j = 0; j < blocks; ++j) {
                const int first = j * rule.block, end = std::min(first + rule.block, tokens);
                const std::uint32_t word =
                    choice[at(h * blocks + i / rule.block, j / 32, rule.words())];
                if ((word >> j % 32 & 1) == 0) {
                    add(end - first, k_means, v_means, h * blocks + j);
                    continue;
                }
                for (int t = first; t < end; ++t) add(1, x.k, x.v, h * tokens + t);
            }
            for (int c = 0; c < d; ++c) out[at(i, h * d + c, s.heads * d)] = y[at(0, c, d)] / total;
        }
        return out;
    }

    void check(const Shape& s, const BlockRule& rule, std::uint64_t binding_limit = 0) {
        const Operands x = random_operands(s);
        const Result result = run(s, x, rule, binding_limit);
        expect_close(result.with_tail, expected(s, x, rule, result.choice), 5e-6,
                     fmt::format("{} heads of {}, {} tokens in blocks of {}, {} kept", s.heads,
                                 s.head_dim, s.tokens(), rule.block, rule.keep));
    }
};

TEST_F(AttentionTailTest, BlocksThatAreLeftOutAreTheirMeansAsOftenAsTheyHaveKeys) {
    check({2, 64, 1, 448}, rule_for(448, 64, 3));
    check({1, 128, 1, 400}, rule_for(400, 128, 2));  // the last block is shorter
    check({3, 20, 1, 331}, rule_for(331, 32, 1));    // and one of 11 tokens
    check({1, 6, 1, 1100}, rule_for(1100, 32, 4));   // 35 blocks: two words a row, odd columns
    check({1, 200, 1, 200}, rule_for(200, 64, 2));
}

TEST_F(AttentionTailTest, SmallSizesAndBindings) {
    check({1, 4, 1, 1}, rule_for(1, 64, 1));
    check({2, 8, 1, 65}, rule_for(65, 64, 1));
    check({5, 8, 1, 400}, rule_for(400, 32, 2), 32 << 10);
}

TEST_F(AttentionTailTest, WhereNothingIsLeftOutNothingChanges) {
    for (const Shape& s : {Shape{2, 64, 1, 333}, Shape{1, 20, 1, 700}}) {
        const Result result = run(s, random_operands(s), rule_for(s.tokens(), 32, 100));
        EXPECT_EQ(result.with_tail, result.without);
    }
}

TEST_F(AttentionTailTest, KeysThatAreEqualInEachBlockLoseNothing) {
    const Shape s{2, 32, 1, 500};
    Operands x = random_operands(s);
    for (std::vector<float>* values : {&x.k, &x.v}) {
        for (int row = 0; row < s.heads * s.tokens(); ++row) {
            const int head = row / s.tokens(), token = row % s.tokens() / 32 * 32;
            for (int c = 0; c < s.head_dim; ++c) {
                (*values)[at(row, c, s.head_dim)] =
                    (*values)[at(head * s.tokens() + token, c, s.head_dim)];
            }
        }
    }
    const Result result = run(s, x, rule_for(s.tokens(), 32, 2));
    const auto all = reference(s, x, kScale, [](int, int, int) { return true; });
    expect_close(result.with_tail, all, 5e-6, "all keys");
    double lost = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        lost = std::max(lost, std::abs(static_cast<double>(result.without[i]) - all[i]));
    }
    EXPECT_GT(lost, 0.05) << "guards the line above: without the tail much is lost";
}

}  // namespace
}  // namespace quantsparse::tests
