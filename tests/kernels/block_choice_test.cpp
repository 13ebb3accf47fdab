// Blocks that the device chooses for each head, against sorting on the host. Operands are small
// integers and the tokens of a short last block are equal, so that means and scores are exact and
// ties are real.
#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "attention/block_rule.hpp"
#include "block_attention_support.hpp"
#include "kernels/block_choice.hpp"
#include "kernels/copy.hpp"

namespace quantsparse::tests {
namespace {

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
        const auto means = [&](const std::vector<float>& values) {
            std::vector<double> out(at(s.heads * blocks, 0, s.head_dim));
            for (int h = 0; h < s.heads; ++h) {
                for (int t = 0; t < s.tokens(); ++t) {
                    for (int c = 0; c < s.head_dim; ++c) {
                        out[at(h * blocks + t / rule.block, c, s.head_dim)] +=
                            static_cast<double>(values[at(h * s.tokens() + t, c, s.head_dim)]);
                    }
                }
            }
            // Sums of whole numbers are exact, and so are their quotients here: equal scores are
            // equal to the bit.
            for (int i = 0; i < s.heads * blocks; ++i) {
                const int count = std::min(rule.block, s.tokens() - i % blocks * rule.block);
                for (int c = 0; c < s.head_dim; ++c) out[at(i, c, s.head_dim)] /= count;
            }
            return out;
        };
        const auto q = means(x.q), k = means(x.k);
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
    static Rows expected_rows(const Shape& s, const std::vector<double>& scores,
                              const BlockRule& rule, double top_p) {
        const int blocks = rule.blocks();
        Rows rows;
        for (int line = 0; line < s.heads * blocks; ++line) {
            const int row = line % blocks;
            const double* score = scores.data() + at(line, 0, blocks);
            const auto forced = [&](int j) {
                return j < rule.prefix || j >= rule.suffix || std::abs(j - row) <= rule.reach;
            };
            std::vector<int> order;
            for (int j = 0; j < blocks; ++j) order.push_back(j);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
                if (forced(a) != forced(b)) return forced(a);
                return !forced(a) && score[a] > score[b];
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
        Tensor choice, sight;
    };
    static Operations declare(Program& program, const Shape& s, const BlockRule& rule) {
        Operations d{add_heads(program, "q", s), add_heads(program, "k", s),
                     add_heads(program, "v", s),
                     program.add("choice", rule.choice_bytes(s.heads), Lifetime::persistent),
                     program.add("sight", kernels::sight_bytes(rule), Lifetime::persistent)};
        kernels::choose_blocks(program, "choose", d.q, d.k, kScale, rule, d.choice);
        return d;
    }
    static void write(Executor& executor, const Shape& s, const Operations& d, const Operands& x) {
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
};

TEST_F(BlockChoiceTest, TheHighestScoresOfEachRowAndHead) {
    check({3, 64, 1, 640}, rule_for(640, 64, 3));
    check({2, 20, 1, 1000}, rule_for(1000, 32, 8));
    check({1, 128, 1, 4100}, rule_for(4100, 128, 5));
    check({2, 6, 7, 311}, rule_for(7 * 311, 32, 20));  // more than one word a row
}

TEST_F(BlockChoiceTest, SmallAndRaggedSizes) {
    check({1, 4, 1, 1}, rule_for(1, 64, 1));
    check({2, 4, 1, 65}, rule_for(65, 64, 1));
    check({2, 8, 1, 33 * 32}, rule_for(33 * 32, 32, 4));
    check({2, 8, 1, 64 * 32 + 1}, rule_for(64 * 32 + 1, 32, 64));
}

TEST_F(BlockChoiceTest, SinksNeighboursAndTextAreAlwaysChosen) {
    BlockRule rule = rule_for(1000, 32, 9);
    rule.prefix = 3;
    rule.suffix = 30;
    rule.full_end = 1;
    rule.full_begin = 30;
    rule.reach = 2;
    check({2, 20, 1, 1000}, rule);
    rule.keep = 1;  // fewer than must be
    check({2, 20, 1, 1000}, rule);
    rule.prefix = rule.suffix = rule.full_begin = 0;
    check({1, 20, 1, 1000}, rule);
    EXPECT_EQ(rule.most_entries(), 32u * 32u);
}

TEST_F(BlockChoiceTest, AClipAt720p) {
    // 81 frames: 75,600 tokens in 1,182 blocks of 64.
    check({1, 4, 21, 3600}, rule_for(75600, 64, 177));
}

TEST_F(BlockChoiceTest, SmallBindingsAreCutIntoChunks) {
    check({5, 8, 1, 700}, rule_for(700, 32, 5), 32 << 10);
}

TEST_F(BlockChoiceTest, EqualScoresGoToTheLowerBlocks) {
    const Shape s{1, 4, 1, 640};
    Operands x{std::vector<float>(s.count(), 0.0f), std::vector<float>(s.count(), -1.0f),
               std::vector<float>(s.count(), 0.0f)};
    BlockRule rule = rule_for(640, 64, 4);
    rule.reach = 0;
    const Rows rows = choose(s, x, rule);
    EXPECT_EQ(rows[0], (std::vector<int>{0, 1, 2, 3}));
    EXPECT_EQ(rows[9], (std::vector<int>{0, 1, 2, 9}));
}

TEST_F(BlockChoiceTest, BlocksAreAddedUntilTheyHoldAShareOfTheSoftmax) {
    const Shape s{2, 64, 1, 1500};
    BlockRule rule = rule_for(1500, 32, 2);
    rule.prefix = 1;
    Operands x = integer_operands(s, 32);
    for (float& value : x.q) value *= 8;
    const auto scores = scores_of(s, x, rule);
    for (const double p : {0.3, 0.7, 0.95}) {
        rule.top_p = static_cast<float>(p);
        const Rows actual = choose(s, x, rule);
        const Rows fewest = expected_rows(s, scores, rule, p - 1e-5);
        const Rows most = expected_rows(s, scores, rule, p + 1e-5);
        std::size_t more = 0, sure = 0;
        for (std::size_t i = 0; i < actual.size(); ++i) {
            if (fewest[i] != most[i]) continue;  // rounding may decide
            EXPECT_EQ(actual[i], fewest[i]) << "row " << i << ", p " << p;
            ++sure;
            more += actual[i].size() > 4;
        }
        EXPECT_GT(sure, actual.size() * 9 / 10);
        EXPECT_GT(more, 0u);
    }
}

TEST_F(BlockChoiceTest, ScoresThatAreNotFiniteComeLastAndListsKeepTheirSize) {
    const Shape s{1, 8, 1, 640};
    Operands x = integer_operands(s, 64);
    for (int t = 128; t < 192; ++t) {
        x.k[at(t, 0, 8)] = std::numeric_limits<float>::quiet_NaN();
    }
    for (int t = 448; t < 512; ++t) x.q[at(t, 3, 8)] = std::numeric_limits<float>::infinity();
    const BlockRule rule = rule_for(640, 64, 4);
    const Rows rows = choose(s, x, rule);
    for (int row = 0; row < 10; ++row) {
        const auto& chosen = rows[static_cast<std::size_t>(row)];
        EXPECT_EQ(chosen.size(), 4u);
        if (std::abs(row - 2) > 1 && row != 7) {
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), 2), 0) << row;
        }
    }
}

TEST_F(BlockChoiceTest, ListsHoldTheChosenBlocksInOrderThenTheOthers) {
    const Shape s{3, 4, 1, 2100};
    BlockRule rule = rule_for(2100, 32, 7);
    rule.prefix = 2;
    rule.full_end = 1;
    const int blocks = rule.blocks();
    for (const bool complete : {false, true}) {
        Program program(limits());
        const Operations d = declare(program, s, rule);
        const BlockList list =
            kernels::list_blocks(program, "list", d.choice, s.heads, rule, d.sight, complete);
        const int pointers = s.heads * (blocks + 1) * (complete ? 2 : 1);
        const int entries = static_cast<int>(list.most_entries);
        const Tensor row_ptr =
            program.add("kept.row_ptr", program.bytes_of(list.row_ptr), Lifetime::persistent);
        const Tensor columns =
            program.add("kept.columns", program.bytes_of(list.columns), Lifetime::persistent);
        kernels::keep_bits(program, list.row_ptr, row_ptr, pointers);
        kernels::keep_bits(program, list.columns, columns, entries);
        Executor executor = executor_for(program);
        const Operands x = integer_operands(s, 32);
        write(executor, s, d, x);
        executor.run(0);
        const Words from =
            executor.read_values<std::uint32_t>(row_ptr, static_cast<std::size_t>(pointers));
        const Words listed =
            executor.read_values<std::uint32_t>(columns, static_cast<std::size_t>(entries));
        const Rows rows = expected_rows(s, scores_of(s, x, rule), rule, 0);
        for (int line = 0; line < s.heads * blocks; ++line) {
            const auto& chosen = rows[static_cast<std::size_t>(line)];
            const int row = line / blocks * (blocks + 1) + line % blocks;
            const auto row_of = [&](int i) {
                const auto begin = listed.begin() + from[static_cast<std::size_t>(i)];
                const auto end = listed.begin() + from[static_cast<std::size_t>(i + 1)];
                return std::vector<int>(begin, end);
            };
            EXPECT_EQ(row_of(complete ? 2 * row : row), chosen);
            if (!complete) continue;
            std::vector<int> others;
            for (int j = 0; j < blocks; ++j) {
                if (!std::binary_search(chosen.begin(), chosen.end(), j)) others.push_back(j);
            }
            EXPECT_EQ(row_of(2 * row + 1), others);
        }
    }
}

TEST_F(BlockChoiceTest, AttentionSeesTheChosenBlocksOfEachHead) {
    for (const auto& [s, block] : {std::pair{Shape{3, 64, 5, 60}, 32},
                                   {Shape{2, 20, 9, 43}, 64},
                                   {Shape{2, 128, 1, 700}, 32}}) {
        const BlockRule rule =
            attention::make_block_rule({s.tokens(), 0, s.tokens(), s.places}, block, 0.4, 0);
        Program program(limits());
        const Operations d = declare(program, s, rule);
        const int behind = kernels::round_up(s.tokens(), 64), width = s.heads * s.head_dim;
        const Matrix results = add_kept_matrix(program, "results", behind + s.tokens(), width);
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), width);
        const Matrix masked = results.slice(behind, s.tokens());
        kernels::AttentionOptions options;
        options.scale = kScale;
        const BlockList list =
            kernels::list_blocks(program, "list", d.choice, s.heads, rule, d.sight);
        options.blocks = &list;
        kernels::attention(program, "attention", d.q, d.k, d.v, out, options);
        const bool both = kernels::attends_both(program, results.slice(0, s.tokens()), masked);
        const BlockList complete =
            kernels::list_blocks(program, "complete", d.choice, s.heads, rule, d.sight, true);
        if (both) {
            options.blocks = &complete;
            options.masked = &masked;
            kernels::attention(program, "both", d.q, d.k, d.v, results.slice(0, s.tokens()),
                               options);
        }
        Executor executor = executor_for(program);
        const Operands x = integer_operands(s, block);
        write(executor, s, d, x);
        executor.run(0);
        const Rows rows = expected_rows(s, scores_of(s, x, rule), rule, 0);
        const auto expected = reference(s, x, kScale, [&, block = block](int h, int i, int j) {
            const auto& chosen = rows[static_cast<std::size_t>(h * rule.blocks() + i / block)];
            return std::binary_search(chosen.begin(), chosen.end(), j / block);
        });
        const double tolerance = attention_tolerance(2e-5, 8);
        expect_close(read_matrix<float>(executor, out), expected, tolerance, "chosen blocks");
        if (!both) continue;
        const auto all = read_matrix<float>(executor, results);
        const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(s.count());
        expect_close(std::vector<float>(all.end() - count, all.end()), expected, tolerance,
                     "chosen blocks beside all");
        expect_close(std::vector<float>(all.begin(), all.begin() + count),
                     reference(s, x, kScale, [](int, int, int) { return true; }), tolerance,
                     "all keys");
    }
}

TEST_F(BlockChoiceTest, DensityOneIsDenseAttention) {
    const Shape s{2, 64, 9, 61};
    const BlockRule rule =
        attention::make_block_rule({s.tokens(), 0, s.tokens(), s.places}, 32, 1, 0);
    Program program(limits());
    const Operations d = declare(program, s, rule);
    const Matrix sparse = add_kept_matrix(program, "sparse", s.tokens(), s.heads * s.head_dim);
    const Matrix dense = add_kept_matrix(program, "dense", s.tokens(), s.heads * s.head_dim);
    kernels::AttentionOptions options;
    options.scale = kScale;
    kernels::attention(program, "dense", d.q, d.k, d.v, dense, options);
    const BlockList list = kernels::list_blocks(program, "list", d.choice, s.heads, rule, d.sight);
    options.blocks = &list;
    kernels::attention(program, "sparse", d.q, d.k, d.v, sparse, options);
    Executor executor = executor_for(program);
    write(executor, s, d, random_operands(s));
    executor.run(0);
    const auto expected = read_matrix<float>(executor, dense);
    const auto actual = read_matrix<float>(executor, sparse);
    if (program.limits().runs_on_cpu) {
        EXPECT_EQ(actual, expected) << "tiles are the same, so are the bits";
    } else {
        expect_close(actual, std::vector<double>(expected.begin(), expected.end()), 2e-6, "all");
    }
}

TEST_F(BlockChoiceTest, TokensGoToGivenPositionsAndTheirResultsBack) {
    for (const std::uint64_t binding_limit : {0, 32 << 10}) {
        const Shape s{3, 20, 5, 60};
        BlockRule rule = rule_for(s.tokens(), 32, 4);
        auto device_limits = limits();
        if (binding_limit) device_limits.max_binding_bytes = binding_limit;
        Program program(device_limits);
        const int width = s.heads * s.head_dim;
        std::vector<HeadMatrix> heads;
        std::vector<Matrix> rows;
        kernels::HeadTransform transform;
        transform.order.positions = program.add(
            "positions", static_cast<std::uint64_t>(s.tokens()) * 4, Lifetime::persistent);
        for (const char* name : {"q", "k", "v"}) {
            rows.push_back(add_kept_matrix(program, name, s.tokens(), width));
            heads.push_back(
                kernels::add_head_matrix(program, name, s.heads, s.tokens(), s.head_dim));
            kernels::split_heads(program, name, rows.back(), heads.back(), transform);
        }
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), width);
        const Tensor choice =
            program.add("choice", rule.choice_bytes(s.heads), Lifetime::persistent);
        const Tensor sight = program.add("sight", kernels::sight_bytes(rule), Lifetime::persistent);
        kernels::choose_blocks(program, "choose", heads[0], heads[1], kScale, rule, choice);
        const BlockList list = kernels::list_blocks(program, "list", choice, s.heads, rule, sight);
        kernels::AttentionOptions options;
        options.scale = kScale;
        options.blocks = &list;
        options.order = transform.order;
        kernels::attention(program, "attention", heads[0], heads[1], heads[2], out, options);
        Executor executor = executor_for(program);
        std::vector<std::uint32_t> positions(static_cast<std::size_t>(s.tokens()));
        for (std::size_t i = 0; i < positions.size(); ++i) {
            positions[i] = static_cast<std::uint32_t>(i);
        }
        std::shuffle(positions.begin(), positions.end(), generator_);
        executor.write_values(transform.order.positions, std::span<const std::uint32_t>(positions));
        executor.clear(sight);
        const Operands x = random_operands(s);
        for (std::size_t i = 0; i < 3; ++i) {
            const auto& values = i == 0 ? x.q : i == 1 ? x.k : x.v;
            std::vector<float> by_token(s.count());
            for (int h = 0; h < s.heads; ++h) {
                for (int t = 0; t < s.tokens(); ++t) {
                    for (int c = 0; c < s.head_dim; ++c) {
                        by_token[at(t, h * s.head_dim + c, width)] =
                            values[at(h * s.tokens() + t, c, s.head_dim)];
                    }
                }
            }
            write_matrix(executor, rows[i], by_token);
        }
        executor.run(0);
        const Rows chosen =
            rows_of(executor.read_values<std::uint32_t>(choice, rule.choice_bytes(s.heads) / 4),
                    s.heads, rule);
        const auto block_of = [&](int token) {
            return static_cast<int>(positions[static_cast<std::size_t>(token)]) / 32;
        };
        const auto expected = reference(s, x, kScale, [&](int h, int i, int j) {
            const auto& row = chosen[static_cast<std::size_t>(h * rule.blocks() + block_of(i))];
            return std::binary_search(row.begin(), row.end(), block_of(j));
        });
        expect_close(read_matrix<float>(executor, out), expected, attention_tolerance(5e-6),
                     fmt::format("bindings of {}", binding_limit));
    }
}

TEST_F(BlockChoiceTest, APlantedPatternIsFound) {
    // Block i of head h asks for block (7 i + 3 h) % 16, among noise.
    const Shape s{3, 64, 1, 1024};
    Operands x = random_operands(s);
    const auto target = [](int h, int i) { return (7 * i + 3 * h) % 16; };
    for (int h = 0; h < s.heads; ++h) {
        for (int t = 0; t < s.tokens(); ++t) {
            x.k[at(h * s.tokens() + t, t / 64, 64)] += 4;
            x.q[at(h * s.tokens() + t, target(h, t / 64), 64)] += 4;
        }
    }
    BlockRule rule = rule_for(1024, 64, 2);
    rule.reach = 0;
    const Rows rows = choose(s, x, rule);
    for (int h = 0; h < s.heads; ++h) {
        for (int i = 0; i < 16; ++i) {
            const auto& chosen = rows[static_cast<std::size_t>(16 * h + i)];
            EXPECT_EQ(chosen.size(), 2u);
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), i), 1) << "its own";
            EXPECT_EQ(std::count(chosen.begin(), chosen.end(), target(h, i)), 1);
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
