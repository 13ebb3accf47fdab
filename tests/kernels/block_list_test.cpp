// Lists made of chosen blocks, and attention over them.
#include "block_choice_support.hpp"
#include "kernels/copy.hpp"

namespace quantsparse::tests {
namespace {

using BlockListTest = BlockChoiceTest;

TEST_F(BlockListTest, ListsHoldTheChosenBlocksInOrderThenTheOthers) {
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

TEST_F(BlockListTest, AttentionSeesTheChosenBlocksOfEachHead) {
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

TEST_F(BlockListTest, DensityOneIsDenseAttention) {
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

TEST_F(BlockListTest, TokensGoToGivenPositionsAndTheirResultsBack) {
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

}  // namespace
}  // namespace quantsparse::tests
