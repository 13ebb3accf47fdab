// Block-sparse attention and the order of tokens, against plain loops over pairs. Rows past the
// last token hold NaN.
#include <fmt/format.h>
#include <cmath>

#include "block_attention_support.hpp"
#include "format/safetensors.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::tests {
namespace {

class SparseAttentionTest : public BlockAttentionTest {
  protected:
    void check(const Shape& s, int band, int sink, int block, std::uint64_t binding_limit = 0) {
        const std::string what =
            fmt::format("{} heads of {}, {} frames of {}, band {}, sink {}, blocks of {}", s.heads,
                        s.head_dim, s.frames, s.places, band, sink, block);
        auto device_limits = limits();
        if (binding_limit) device_limits.max_binding_bytes = binding_limit;
        Program program(device_limits);
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.heads * s.head_dim);
        const Tensor types_tensor =
            program.add("types", static_cast<std::uint64_t>(s.heads) * 4, Lifetime::persistent);
        const BlockMask mask = attention::make_block_mask(sight_of(s, band, sink), block);
        const BlockList list = attention::declare_block_list(program, "list", mask);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
        options.blocks = &list;
        options.order = {types_tensor, s.frames, s.places, s.apart, s.text_in_front};
        kernels::attention(program, "attention", q, k, v, out, options);
        Executor executor = executor_for(program);
        const Operands x = random_operands(s);
        std::vector<std::uint32_t> types;
        for (int h = 0; h < s.heads; ++h) types.push_back(static_cast<std::uint32_t>(h + 1) % 2);
        write_operands(executor, s, q, k, v, x, types);
        write_block_list(executor, list, mask);
        write_types(executor, types_tensor, types);
        write_matrix(executor, out, std::vector<float>(at(out.rows, 0, out.columns), 7.0f));
        executor.run(0);
        const auto expected = reference(s, x, options.scale, [&](int h, int i, int j) {
            if (types[static_cast<std::size_t>(h)]) {
                i = s.place_index(i);
                j = s.place_index(j);
            }
            const bool text = s.is_text(i) || s.is_text(j);
            return text || std::abs(i - j) <= band || j < s.text_in_front + sink;
        });
        expect_close(read_matrix<float>(executor, out), expected, attention_tolerance(5e-6), what);
        EXPECT_TRUE(padding_is_zero(executor, out)) << what;
    }
};

TEST_F(SparseAttentionTest, BandsSinksAndBlockSizes) {
    for (const int block : {32, 64, 128}) {
        check({3, 64, 5, 60}, 40, 60, block);
        check({2, 20, 7, 23}, 11, 0, block);
    }
    check({2, 64, 9, 36}, 0, 1, 64);
    check({2, 128, 3, 50}, 149, 0, 64);
    check({2, 20, 9, 60}, 50, 60, 32);
}

TEST_F(SparseAttentionTest, RaggedShapes) {
    check({1, 4, 1, 1}, 0, 1, 64);
    check({3, 6, 2, 65}, 3, 65, 64);
    check({5, 18, 13, 10}, 30, 10, 32);
    check({2, 64, 1, 130}, 20, 0, 64);
    check({2, 64, 130, 1}, 20, 1, 64);
}

TEST_F(SparseAttentionTest, TextBesideTheGrid) {
    for (const bool apart : {false, true}) {
        check({3, 64, 5, 60, apart, 77, 0}, 40, 60, 64);
        check({2, 20, 7, 23, apart, 0, 50}, 11, 23, 32);
        check({2, 64, 4, 33, apart, 64, 9}, 20, 33, 32);
        check({2, 20, 1, 9, apart, 3, 5}, 2, 9, 32);
    }
    check({4, 20, 5, 60, false, 64, 7}, 40, 60, 64, 32 << 10);
}

TEST_F(SparseAttentionTest, TheFirstFrameApart) {
    check({3, 64, 5, 60, true}, 40, 60, 64);
    check({2, 20, 7, 23, true}, 11, 23, 32);
    check({2, 6, 1, 9, true}, 2, 9, 32);
    check({4, 20, 5, 60, true}, 40, 60, 64, 32 << 10);
}

TEST_F(SparseAttentionTest, OnePassOverTheKeysGivesBothResults) {
    struct Case {
        Shape shape;
        int band, sink, block;
    };
    for (const Case& c : {Case{{3, 64, 5, 60}, 40, 60, 32}, Case{{2, 20, 7, 23}, 11, 0, 64},
                          Case{{2, 6, 1, 50}, 0, 1, 32}, Case{{1, 136, 3, 50}, 9, 50, 64},
                          Case{{2, 64, 4, 40}, 160, 0, 32}, Case{{2, 20, 9, 60}, 50, 60, 32}}) {
        const Shape& s = c.shape;
        const std::string what = fmt::format("{} heads of {}, {} tokens, band {}", s.heads,
                                             s.head_dim, s.tokens(), c.band);
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
        const Operands x = random_operands(s);
        const auto types = types_in_turn(s);
        const auto all =
            run_both(limits(), s, x,
                     attention::complete_list(band_mask(s.tokens(), c.band, c.sink, c.block)),
                     options, types);
        const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(s.count());
        expect_close(std::vector<float>(all.begin(), all.begin() + count),
                     reference(s, x, options.scale, [](int, int, int) { return true; }), 5e-6,
                     what + ", all keys");
        const auto expected = reference(s, x, options.scale, [&](int h, int i, int j) {
            if (types[static_cast<std::size_t>(h)]) {
                i = s.place_index(i);
                j = s.place_index(j);
            }
            return std::abs(i - j) <= c.band || j < c.sink;
        });
        expect_close(std::vector<float>(all.end() - count, all.end()), expected, 5e-6,
                     what + ", under the mask");
    }
}

TEST_F(SparseAttentionTest, MasksChangeBetweenRunsAndBlocksCanBeWhole) {
    const Shape s{2, 64, 5, 50};
    Program program(limits());
    const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
               v = add_heads(program, "v", s);
    const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.heads * s.head_dim);
    const int blocks = (s.tokens() + 31) / 32;
    const auto band_of = [&](double density) {
        return attention::band_width(s.tokens(), s.places, density, MaskMode::exact);
    };
    const BlockMask first = band_mask(s.tokens(), band_of(0.3), s.places, 32);
    const BlockList list = attention::declare_block_list(
        program, "list", first, static_cast<std::uint64_t>(blocks * blocks));
    kernels::AttentionOptions options;
    options.scale = 0.125f;
    options.blocks = &list;
    kernels::attention(program, "attention", q, k, v, out, options);
    Executor executor = executor_for(program);
    const Operands x = random_operands(s);
    for (const auto& [m, values] : {std::pair{&q, &x.q}, {&k, &x.k}, {&v, &x.v}}) {
        write_heads(executor, s, *m, *values, {0, 0});
    }
    for (const double density : {0.3, 0.6, 0.25, 1.0}) {
        for (const auto granularity : {MaskGranularity::token, MaskGranularity::block}) {
            const int band = band_of(density);
            const BlockMask mask = attention::make_block_mask(
                attention::band_sight(s.tokens(), band, s.places), 32, granularity);
            write_block_list(executor, list, mask);
            executor.run(0);
            const auto expected = reference(s, x, 0.125f, [&](int, int i, int j) {
                if (granularity == MaskGranularity::token) {
                    return std::abs(i - j) <= band || j < s.places;
                }
                // The blocks are close enough, or the key's holds a token of the first frame.
                const int nearest = std::max(0, (std::abs(i / 32 - j / 32) - 1) * 32 + 1);
                return i / 32 == j / 32 || nearest <= band || j / 32 * 32 < s.places;
            });
            expect_close(read_matrix<float>(executor, out), expected, 5e-6,
                         fmt::format("density {}, {} granularity", density,
                                     granularity == MaskGranularity::token ? "token" : "block"));
        }
    }

    Program tight(limits());
    const BlockList small = attention::declare_block_list(tight, "list", first);
    Executor other = executor_for(tight);
    EXPECT_THROW(write_block_list(other, small, band_mask(s.tokens(), 250, s.places, 32)), Error);
    EXPECT_THROW(write_block_list(other, small, band_mask(s.tokens(), 1, s.places, 64)), Error);
}

TEST_F(SparseAttentionTest, ListsOfTheirOwnForEachHead) {
    // Explicit lists of whole blocks, as other masks would give.
    const Shape s{2, 64, 1, 300};
    Program program(limits());
    const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
               v = add_heads(program, "v", s);
    const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.heads * s.head_dim);
    const std::vector<std::uint32_t> row_ptr = {0, 2, 3, 5, 6, 8, 8, 9, 12, 13, 14, 16};
    const std::vector<std::uint32_t> columns = {0, 4, 1, 0, 2, 3, 1, 4, 4, 0, 2, 3, 2, 1, 3, 4};
    BlockList list;
    list.lists = 2;
    list.query_blocks = 5;
    list.row_ptr = program.add("row_ptr", 12 * 4, Lifetime::persistent);
    list.columns = program.add("columns", 16 * 4, Lifetime::persistent);
    list.sight = program.add("sight", static_cast<std::uint64_t>(1 + s.tokens()) * 8,
                             Lifetime::persistent);  // no block is partial: its values are not used
    kernels::AttentionOptions options;
    options.scale = 0.125f;
    options.blocks = &list;
    kernels::attention(program, "attention", q, k, v, out, options);
    Executor executor = executor_for(program);
    // Head h's rows are row_ptr[6 h ..]: head 1 begins at entry 8.
    executor.write_values(list.row_ptr, std::span<const std::uint32_t>(row_ptr));
    executor.write_values(list.columns, std::span<const std::uint32_t>(columns));
    executor.clear(list.sight);
    const Operands x = random_operands(s);
    write_heads(executor, s, q, x.q, {0, 0});
    write_heads(executor, s, k, x.k, {0, 0});
    write_heads(executor, s, v, x.v, {0, 0});
    executor.run(0);
    const auto expected = reference(s, x, 0.125f, [&](int h, int i, int j) {
        const std::size_t row = static_cast<std::size_t>(6 * h + i / 64);
        for (std::uint32_t e = row_ptr[row]; e < row_ptr[row + 1]; ++e) {
            if (columns[e] == static_cast<std::uint32_t>(j / 64)) return true;
        }
        return false;
    });
    expect_close(read_matrix<float>(executor, out), expected, attention_tolerance(5e-6),
                 "own lists");
}

TEST_F(SparseAttentionTest, EveryBlockListedIsDenseAttention) {
    const Shape s{3, 64, 9, 36};
    Program program(limits());
    const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
               v = add_heads(program, "v", s);
    const Matrix sparse_out = add_kept_matrix(program, "sparse", s.tokens(), s.heads * s.head_dim);
    const Matrix dense_out = add_kept_matrix(program, "dense", s.tokens(), s.heads * s.head_dim);
    const BlockMask mask = band_mask(s.tokens(), s.tokens(), 36, 64);
    const BlockList list = attention::declare_block_list(program, "list", mask);
    kernels::AttentionOptions options;
    options.scale = 0.125f;
    kernels::attention(program, "dense", q, k, v, dense_out, options);
    options.blocks = &list;
    kernels::attention(program, "sparse", q, k, v, sparse_out, options);
    Executor executor = executor_for(program);
    const Operands x = random_operands(s);
    for (const auto& [m, values] : {std::pair{&q, &x.q}, {&k, &x.k}, {&v, &x.v}}) {
        write_heads(executor, s, *m, *values, {0, 0, 0});
    }
    write_block_list(executor, list, mask);
    executor.run(0);
    const auto dense = read_matrix<float>(executor, dense_out);
    const auto sparse = read_matrix<float>(executor, sparse_out);
    if (program.limits().runs_on_cpu) {
        EXPECT_EQ(dense, sparse) << "tiles are the same, so are the bits";
    } else {
        expect_close(sparse, std::vector<double>(dense.begin(), dense.end()), 2e-6, "full list");
    }
}

TEST_F(SparseAttentionTest, UnlistedKeysAreNeverRead) {
    const Shape s{1, 64, 5, 64};
    const BlockMask mask = band_mask(s.tokens(), 40, 0, 64);
    Program program(limits());
    const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
               v = add_heads(program, "v", s);
    const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.head_dim);
    const BlockList list = attention::declare_block_list(program, "list", mask);
    kernels::AttentionOptions options;
    options.blocks = &list;
    kernels::attention(program, "attention", q, k, v, out, options);
    Executor executor = executor_for(program);
    Operands x = random_operands(s);
    write_block_list(executor, list, mask);
    std::vector<float> before;
    for (const bool poisoned : {false, true}) {
        if (poisoned) {  // frames 0 and 4 are out of sight of the middle of frame 2
            for (int t = 0; t < s.tokens(); ++t) {
                if (t >= 64 && t < 256) continue;
                for (int c = 0; c < 64; ++c) {
                    x.k[at(t, c, 64)] = x.v[at(t, c, 64)] = std::numeric_limits<float>::quiet_NaN();
                }
            }
        }
        write_heads(executor, s, q, x.q, {0});
        write_heads(executor, s, k, x.k, {0});
        write_heads(executor, s, v, x.v, {0});
        executor.run(0);
        const auto all = read_matrix<float>(executor, out);
        const std::vector<float> middle(all.begin() + 128 * 64, all.begin() + 192 * 64);
        if (poisoned) {
            EXPECT_EQ(middle, before);
        }
        before = middle;
    }
}

TEST_F(SparseAttentionTest, SmallBindingsAreCutIntoChunks) {
    check({3, 20, 5, 60}, 40, 60, 64, 32 << 10);
    check({5, 6, 11, 29}, 9, 29, 32, 16 << 10);
}

TEST_F(SparseAttentionTest, TheCorrectionIsAddedInTheOrderOfTokens) {
    for (const auto& [s, binding_limit] : {std::pair{Shape{3, 20, 4, 19}, 0},
                                           {Shape{2, 6, 3, 11}, 0},
                                           {Shape{2, 64, 5, 13}, 0},
                                           {Shape{2, 20, 9, 60}, 0},
                                           {Shape{3, 20, 10, 19}, 32 << 10}}) {
        auto device_limits = limits();
        if (binding_limit) {
            device_limits.max_binding_bytes = static_cast<std::uint64_t>(binding_limit);
        }
        Program program(device_limits);
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const int columns = s.heads * s.head_dim;
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), columns);
        const Matrix plain = add_kept_matrix(program, "plain", s.tokens(), columns);
        const Tensor types_tensor = program.add("types", 16, Lifetime::persistent);
        const BlockMask mask = band_mask(s.tokens(), 9, s.places, 64);
        const BlockList list = attention::declare_block_list(program, "list", mask);
        kernels::Residual residual;
        residual.storage = ResidualStorage::half;
        residual.tokens = s.tokens();
        residual.heads = s.heads;
        residual.head_dim = s.head_dim;
        residual.difference4 = 1;
        residual.rows =
            program.add("rows", residual.row_bytes() * static_cast<std::uint64_t>(s.tokens()),
                        Lifetime::persistent);
        residual.u = add_kept_matrix(program, "u", s.tokens(), 4);
        residual.v = add_kept_matrix(program, "v", columns, 4);
        residual.state = program.add("state", static_cast<std::uint64_t>(4 * s.heads + 2) * 4,
                                     Lifetime::persistent);
        residual.control = program.add("control", 80, Lifetime::persistent);
        kernels::AttentionOptions options;
        options.scale = 0.2f;
        options.blocks = &list;
        options.order = {types_tensor, s.frames, s.places, s.apart, s.text_in_front};
        kernels::attention(program, "plain", q, k, v, plain, options);
        options.residual = &residual;
        kernels::attention(program, "attention", q, k, v, out, options);
        Executor executor = executor_for(program);

        const Operands x = random_operands(s);
        std::vector<std::uint32_t> types = {1, 0, 1};
        types.resize(4);
        write_types(executor, types_tensor, types);
        write_operands(executor, s, q, k, v, x, types);
        write_block_list(executor, list, mask);
        const auto u = random(s.tokens(), 4), basis = random(columns, 4);
        write_matrix(executor, residual.u, u);
        write_matrix(executor, residual.v, basis);
        const int head4 = (s.head_dim + 3) / 4;
        const auto history = through_half(random(s.tokens(), s.heads * head4 * 4));
        std::vector<std::uint32_t> words;
        for (std::size_t i = 0; i < history.size(); i += 2) {
            words.push_back(format::half_from_float(history[i]) |
                            static_cast<std::uint32_t>(format::half_from_float(history[i + 1]))
                                << 16);
        }
        executor.write_values(residual.rows, std::span<const std::uint32_t>(words));
        std::vector<std::uint32_t> state(static_cast<std::size_t>(4 * s.heads + 4), 0);
        state.resize(executor.program().bytes_of(residual.state) / 4);
        state[0] = 2;  // head 0 extrapolates, head 1 has nothing, others their residual alone
        for (int h = 2; h < s.heads; ++h) state[static_cast<std::size_t>(h)] = 1;
        executor.write_values(residual.state, std::span<const std::uint32_t>(state));
        const std::vector<float> control = {0, 0, 0, 0, 1, 0, 0, 0, 0.5f, 0,
                                            0, 2, 0, 0, 0, 0, 0, 0, 0,    0};
        executor.write_values(residual.control, std::span<const float>(control));
        executor.run(0);

        const auto before = read_matrix<float>(executor, plain);
        std::vector<double> expected(before.begin(), before.end());
        for (int t = 0; t < s.tokens(); ++t) {
            for (int h = 0; h < s.heads; ++h) {
                for (int c = 0; c < s.head_dim; ++c) {
                    const int column = h * s.head_dim + c;
                    const double stored = history[at(t, h * head4 * 4 + c, s.heads * head4 * 4)];
                    double& y = expected[at(t, column, columns)];
                    if (h >= 2) y += stored;
                    if (h != 0) continue;
                    y += 0.5 * stored;
                    for (int r = 0; r < 4; ++r) y += 2.0 * u[at(t, r, 4)] * basis[at(column, r, 4)];
                }
            }
        }
        expect_close(read_matrix<float>(executor, out), expected, attention_tolerance(1e-5),
                     "correction");
    }
}

TEST_F(SparseAttentionTest, SplitHeadsWritesTemporalHeadsPlaceByPlace) {
    for (const Shape& s : {Shape{3, 20, 5, 14}, Shape{3, 20, 5, 14, true}, Shape{3, 6, 1, 9, true},
                           Shape{3, 20, 5, 14, false, 7, 3}, Shape{3, 20, 5, 14, true, 3, 7}}) {
        Program program(limits());
        const Matrix in = add_kept_matrix(program, "in", s.tokens(), s.heads * s.head_dim);
        const auto out = add_heads(program, "out", s);
        kernels::HeadTransform transform;
        const Tensor types = program.add("types", 16, Lifetime::persistent);
        transform.order = {types, s.frames, s.places, s.apart, s.text_in_front};
        split_heads(program, "split", in, out, transform);
        // The same in two steps, of which the second leaves other heads as the first wrote them.
        const auto again = add_heads(program, "again", s);
        const Matrix other = add_kept_matrix(program, "other", s.tokens(), s.heads * s.head_dim);
        split_heads(program, "by_frame", in, again);
        transform.only_temporal = true;
        split_heads(program, "temporal", other, again, transform);
        Executor executor = executor_for(program);
        const auto values = random(s.tokens(), s.heads * s.head_dim);
        const auto others = random(s.tokens(), s.heads * s.head_dim);
        write_matrix(executor, in, values);
        write_matrix(executor, other, others);
        write_types(executor, types, {0, 1, 0, 0});
        executor.run(0);
        const auto heads = executor.read_values<float>(out.tensor, out.head_bytes() / 4 * 3);
        const auto twice = executor.read_values<float>(again.tensor, out.head_bytes() / 4 * 3);
        for (int h = 0; h < s.heads; ++h) {
            for (int t = 0; t < s.tokens(); ++t) {
                const int position = h == 1 ? s.place_index(t) : t;
                for (int c = 0; c < s.head_dim; ++c) {
                    ASSERT_EQ(heads[at(h * out.token_stride + position, c, out.padded_dim)],
                              values[at(t, h * s.head_dim + c, s.heads * s.head_dim)])
                        << h << ", " << t << ", " << c;
                    ASSERT_EQ(
                        twice[at(h * out.token_stride + position, c, out.padded_dim)],
                        (h == 1 ? others : values)[at(t, h * s.head_dim + c, s.heads * s.head_dim)])
                        << h << ", " << t << ", " << c;
                }
            }
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
