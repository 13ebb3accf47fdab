// What tests of chosen blocks share: the choice by sorting on the host. Operands are small integers
// and the tokens of a short last block are equal, so that means and scores are exact and ties are
// real.
#pragma once

#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "attention/block_rule.hpp"
#include "block_attention_support.hpp"
#include "kernels/block_choice.hpp"

namespace quantsparse::tests {

using kernels::BlockRule;

class BlockChoiceTest : public BlockAttentionTest {
  protected:
    static constexpr float kScale = 0.125f;
    using Words = std::vector<std::uint32_t>;
    using Rows = std::vector<std::vector<int>>;  ///< the chosen columns of [heads, blocks]

    Operands integer_operands(const Shape& s, int block) {
        Operands x = random_operands(s);
        const int last = (s.tokens() - 1) / block * block;
        for (std::vector<float>* values : {&x.q, &x.k}) {
            for (int h = 0; h < s.heads; ++h) {
                for (int t = 0; t < s.tokens(); ++t) {
                    for (int c = 0; c < s.head_dim; ++c) {
                        float& value = (*values)[at(h * s.tokens() + t, c, s.head_dim)];
                        value = t > last ? (*values)[at(h * s.tokens() + last, c, s.head_dim)]
                                         : std::round(4 * value);
                    }
                }
            }
        }
        return x;
    }

    /// Scores [heads, blocks, blocks] of exact means.
    static std::vector<double> scores_of(const Shape& s, const Operands& x, const BlockRule& rule) {
        const int blocks = rule.blocks();
        const auto means = [&](const std::vector<float>& values, int group) {
            std::vector<double> out(at(s.heads * blocks, 0, s.head_dim));
            for (int h = 0; h < s.heads; ++h) {
                for (int t = 0; t < s.tokens(); ++t) {
                    const int first = t / (group * rule.block) * group;
                    for (int c = 0; c < s.head_dim; ++c) {
                        for (int b = first; b < std::min(first + group, blocks); ++b) {
                            out[at(h * blocks + b, c, s.head_dim)] +=
                                static_cast<double>(values[at(h * s.tokens() + t, c, s.head_dim)]);
                        }
                    }
                }
            }
            // Sums of whole numbers are exact, and so are their quotients here: equal scores are
            // equal to the bit.
            for (int i = 0; i < s.heads * blocks; ++i) {
                const int first = i % blocks / group * group * rule.block;
                const int count = std::min(group * rule.block, s.tokens() - first);
                for (int c = 0; c < s.head_dim; ++c) out[at(i, c, s.head_dim)] /= count;
            }
            return out;
        };
        const auto q = means(x.q, rule.group), k = means(x.k, 1);
        std::vector<double> scores;
        for (int row = 0; row < s.heads * blocks; ++row) {
            for (int j = 0; j < blocks; ++j) {
                double score = 0;
                for (int c = 0; c < s.head_dim; ++c) {
                    score +=
                        q[at(row, c, s.head_dim)] * k[at(row / blocks * blocks + j, c, s.head_dim)];
                }
                scores.push_back(score * kScale);
            }
        }
        return scores;
    }

    /// What the rule says, by sorting.
    Rows expected_rows(const Shape& s, const std::vector<double>& scores, const BlockRule& rule,
                       double top_p) const {
        const int blocks = rule.blocks();
        Rows rows;
        for (int line = 0; line < s.heads * blocks; ++line) {
            const int row = line % blocks;
            const double* score = scores.data() + at(line, 0, blocks);
            const auto forced = [&](int j) {
                return j < rule.prefix || j >= rule.suffix || std::abs(j - row) <= rule.reach ||
                       (!always_.empty() &&
                        (always_[at(row, j / 32, rule.words())] >> j % 32 & 1) != 0);
            };
            const auto first = [&](int j) { return forced(j) && !rule.beside; };
            std::vector<int> order;
            for (int j = 0; j < blocks; ++j) order.push_back(j);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
                if (first(a) != first(b)) return first(a);
                return !first(a) && score[a] > score[b];
            });
            const double largest = *std::max_element(score, score + blocks);
            double total = 0, ahead = 0;
            for (int j = 0; j < blocks; ++j) total += std::exp(score[j] - largest);
            std::vector<int> chosen;
            for (int n = 0; n < blocks; ++n) {
                const int j = order[static_cast<std::size_t>(n)];
                if (n < rule.keep || forced(j) || rule.is_full(row) || ahead < top_p * total) {
                    chosen.push_back(j);
                }
                ahead += std::exp(score[j] - largest);
            }
            std::sort(chosen.begin(), chosen.end());
            rows.push_back(chosen);
        }
        return rows;
    }

    struct Operations {
        HeadMatrix q, k, v;
        Tensor choice, sight, always;
    };
    Operations declare(Program& program, const Shape& s, BlockRule rule) const {
        Operations d{add_heads(program, "q", s),
                     add_heads(program, "k", s),
                     add_heads(program, "v", s),
                     program.add("choice", rule.choice_bytes(s.heads), Lifetime::persistent),
                     program.add("sight", kernels::sight_bytes(rule), Lifetime::persistent),
                     {}};
        if (!always_.empty()) {
            d.always = rule.always =
                program.add("always", always_.size() * 4, Lifetime::persistent);
        }
        kernels::choose_blocks(program, "choose", d.q, d.k, kScale, rule, d.choice);
        return d;
    }
    void write(Executor& executor, const Shape& s, const Operations& d, const Operands& x) const {
        if (d.always.valid()) {
            executor.write_values(d.always, std::span<const std::uint32_t>(always_));
        }
        const std::vector<std::uint32_t> in_frames(static_cast<std::size_t>(s.heads), 0);
        write_operands(executor, s, d.q, d.k, d.v, x, in_frames);
        executor.clear(d.sight);
    }
    static Rows rows_of(const Words& choice, int heads, const BlockRule& rule) {
        Rows rows;
        for (int line = 0; line < heads * rule.blocks(); ++line) {
            std::vector<int> chosen;
            for (int bit = 0; bit < 32 * rule.words(); ++bit) {
                if (choice[at(line, bit / 32, rule.words())] >> bit % 32 & 1) chosen.push_back(bit);
            }
            rows.push_back(chosen);
        }
        return rows;
    }
    Rows choose(const Shape& s, const Operands& x, const BlockRule& rule,
                std::uint64_t binding_limit = 0) {
        auto device_limits = limits();
        if (binding_limit) device_limits.max_binding_bytes = binding_limit;
        Program program(device_limits);
        const Operations d = declare(program, s, rule);
        Executor executor = executor_for(program);
        write(executor, s, d, x);
        executor.run(0);
        return rows_of(
            executor.read_values<std::uint32_t>(d.choice, rule.choice_bytes(s.heads) / 4), s.heads,
            rule);
    }

    static BlockRule rule_for(int tokens, int block, int keep) {
        BlockRule rule;
        rule.tokens = tokens;
        rule.block = block;
        rule.suffix = rule.full_begin = rule.blocks();
        rule.keep = keep;
        return rule;
    }
    void check(const Shape& s, BlockRule rule, std::uint64_t binding_limit = 0) {
        const Operands x = integer_operands(s, rule.block);
        const auto expected = expected_rows(s, scores_of(s, x, rule), rule, 0);
        EXPECT_EQ(choose(s, x, rule, binding_limit), expected)
            << fmt::format("{} heads of {}, {} tokens in blocks of {}, {} kept", s.heads,
                           s.head_dim, s.tokens(), rule.block, rule.keep);
    }

    Words always_;  ///< of the rule; empty: none
};

}  // namespace quantsparse::tests
