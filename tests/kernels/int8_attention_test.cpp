// Attention in codes of eight bits against plain loops that follow the scheme: the same codes, the
// same tiles, in double precision. Operands are drawn so that no code lies near a tie, and so that
// k's mean over the tokens is known; probabilities near a tie are allowed for.
#include <fmt/format.h>
#include <bit>
#include <cmath>
#include <limits>

#include "block_attention_support.hpp"
#include "kernels/attention_codes.hpp"

namespace quantsparse::tests {
namespace {

constexpr int kScaleBlock = 64;

/// What a query walks over: tiles of keys, and which of them it sees.
struct Tile {
    int first = 0;
    std::vector<bool> sees;
};
using Walk = std::vector<Tile>;
struct Expected {
    std::vector<double> out, tolerance;
};

class Int8AttentionTest : public BlockAttentionTest {
  protected:
    struct Options {
        AttentionProducts products = AttentionProducts::int8_qk;
        Arithmetic arithmetic = usual();
        std::uint64_t binding_limit = 0;
    };
    static constexpr AttentionProducts kBoth[] = {AttentionProducts::int8_qk,
                                                  AttentionProducts::int8};

    /// A value that codes to within 0.4 of an integer, where the scale is `unit`.
    float grid_value(double unit) {
        const double remainder = std::uniform_real_distribution<double>(-0.4, 0.4)(generator_);
        return static_cast<float>((random_int(-126, 126) + remainder) * unit);
    }
    double random_unit(double amplitude) {
        return amplitude * std::uniform_real_distribution<double>(0.4, 1.6)(generator_) / 127;
    }
    /// q or k of a head [tokens, dim]. `mirrored`: tokens in pairs that cancel, so that the mean
    /// over all is zero.
    std::vector<float> block_values(int tokens, int dim, double amplitude, bool mirrored) {
        std::vector<float> values(at(tokens, 0, dim), 0.0f);
        for (int first = 0; first < tokens; first += kScaleBlock) {
            const double unit = random_unit(amplitude);
            const int end = std::min(first + kScaleBlock, tokens);
            for (int t = first; t < end; ++t) {
                for (int c = 0; c < dim; ++c) {
                    float& x = values[at(t, c, dim)];
                    if (!mirrored) {
                        x = grid_value(unit);
                    } else if ((t - first) % 2) {
                        x = -values[at(t - 1, c, dim)];
                    } else if (t + 1 < end) {
                        x = grid_value(unit);
                    }
                }
                const bool largest = t == first && (!mirrored || t + 1 < end);
                if (largest) {
                    values[at(t, random_int(0, dim - 1), dim)] = static_cast<float>(127 * unit);
                }
            }
        }
        return values;
    }
    /// v of a head [tokens, dim]: a unit for each column.
    std::vector<float> column_values(int tokens, int dim) {
        std::vector<float> values(at(tokens, 0, dim));
        for (int c = 0; c < dim; ++c) {
            const double unit = random_unit(1);
            for (int t = 0; t < tokens; ++t) values[at(t, c, dim)] = grid_value(unit);
            values[at(random_int(0, tokens - 1), c, dim)] = static_cast<float>(127 * unit);
        }
        return values;
    }
    /// By position in each head's own order. `offset`: added to k, another for each column.
    Operands grid_operands(const Shape& s, float offset = 0) {
        Operands x;
        const auto append = [](std::vector<float>& all, const std::vector<float>& head) {
            all.insert(all.end(), head.begin(), head.end());
        };
        for (int h = 0; h < s.heads; ++h) {
            append(x.q, block_values(s.tokens(), s.head_dim, 1.5, false));
            append(x.k, block_values(s.tokens(), s.head_dim, 1.5, true));
            append(x.v, column_values(s.tokens(), s.head_dim));
        }
        for (std::size_t i = 0; i < x.k.size(); ++i) {
            x.k[i] += offset * static_cast<float>(i % static_cast<std::size_t>(s.head_dim) + 1) /
                      static_cast<float>(s.head_dim);
        }
        return x;
    }

    struct Coded {
        std::vector<int> codes;
        std::vector<double> scales;
    };
    static int code(double x, double scale) {
        return scale > 0 ? static_cast<int>(std::nearbyint(x / scale)) : 0;
    }
    /// Codes of a head with a scale for each block of tokens, without the mean if asked.
    static Coded block_codes(std::span<const float> x, int tokens, int dim, bool smooth) {
        std::vector<double> mean(static_cast<std::size_t>(dim), 0.0);
        for (int t = 0; smooth && t < tokens; ++t) {
            for (int c = 0; c < dim; ++c) {
                mean[static_cast<std::size_t>(c)] += static_cast<double>(x[at(t, c, dim)]) / tokens;
            }
        }
        Coded result;
        for (int first = 0; first < tokens; first += kScaleBlock) {
            const int end = std::min(first + kScaleBlock, tokens);
            const auto value = [&](int t, int c) {
                return x[at(t, c, dim)] - mean[static_cast<std::size_t>(c)];
            };
            double largest = 0;
            for (int t = first; t < end; ++t) {
                for (int c = 0; c < dim; ++c) largest = std::max(largest, std::abs(value(t, c)));
            }
            if (largest < 1e-6) largest = 0;  // what rounding leaves of a block that is the mean
            result.scales.push_back(largest / 127);
            for (int t = first; t < end; ++t) {
                for (int c = 0; c < dim; ++c) {
                    result.codes.push_back(code(value(t, c), result.scales.back()));
                }
            }
        }
        return result;
    }
    static Coded column_codes(std::span<const float> x, int tokens, int dim) {
        Coded result{std::vector<int>(at(tokens, 0, dim)), {}};
        for (int c = 0; c < dim; ++c) {
            double largest = 0;
            for (int t = 0; t < tokens; ++t) {
                largest = std::max(largest, std::abs(static_cast<double>(x[at(t, c, dim)])));
            }
            result.scales.push_back(largest / 127);
            for (int t = 0; t < tokens; ++t) {
                result.codes[at(t, c, dim)] = code(x[at(t, c, dim)], largest / 127);
            }
        }
        return result;
    }

    /// One query's running sums.
    struct Sums {
        double maximum = -1e300, denominator = 0, near_ties = 0;
        std::vector<double> values;
    };
    /// Adds a tile as attention_codes.glsl says.
    static void add_tile(Sums& sums, const Tile& tile, std::span<const double> scores,
                         const Operands& x, std::size_t head_at, const Coded* v, int dim) {
        double now = sums.maximum;
        for (std::size_t j = 0; j < tile.sees.size(); ++j) {
            if (tile.sees[j]) now = std::max(now, scores[static_cast<std::size_t>(tile.first) + j]);
        }
        if (now == -1e300) return;
        const double factor = std::exp(sums.maximum - now);
        sums.maximum = now;
        sums.denominator *= factor;
        sums.near_ties *= factor;
        for (double& value : sums.values) value *= factor;
        for (std::size_t j = 0; j < tile.sees.size(); ++j) {
            if (!tile.sees[j]) continue;
            const int key = tile.first + static_cast<int>(j);
            double e = std::exp(scores[static_cast<std::size_t>(key)] - now);
            if (v) {
                const double exact = 127 * e;
                e = std::nearbyint(exact);
                if (std::abs(std::abs(exact - e) - 0.5) < 0.002) sums.near_ties += 1;
            }
            sums.denominator += e;
            for (int c = 0; c < dim; ++c) {
                sums.values[static_cast<std::size_t>(c)] +=
                    e * (v ? static_cast<double>(v->codes[at(key, c, dim)])
                           : static_cast<double>(x.v[head_at + at(key, c, dim)]));
            }
        }
    }

    using WalkOf = std::function<Walk(int head, int query)>;

    /// out[token, head * head_dim + c], operands by position. `types`: of heads.
    static Expected reference_in_codes(const Shape& s, const Operands& x, float scale,
                                       AttentionProducts products, const WalkOf& walk_of,
                                       const std::vector<std::uint32_t>& types) {
        Expected expected{std::vector<double>(s.count()), std::vector<double>(s.count())};
        const int tokens = s.tokens();
        const bool in_codes = products == AttentionProducts::int8;
        for (int h = 0; h < s.heads; ++h) {
            const std::size_t head_at = at(h * tokens, 0, s.head_dim);
            const auto head = [&](const std::vector<float>& m) {
                return std::span(m).subspan(head_at, at(tokens, 0, s.head_dim));
            };
            const Coded q = block_codes(head(x.q), tokens, s.head_dim, false);
            const Coded k = block_codes(head(x.k), tokens, s.head_dim, true);
            const Coded v = column_codes(head(x.v), tokens, s.head_dim);
            for (int t = 0; t < tokens; ++t) {
                const bool by_place = !types.empty() && types[static_cast<std::size_t>(h)] != 0;
                const int query = by_place ? s.place_index(t) : t;
                std::vector<double> scores;
                for (int j = 0; j < tokens; ++j) {
                    double sum = 0;
                    for (int c = 0; c < s.head_dim; ++c) {
                        sum += q.codes[at(query, c, s.head_dim)] * k.codes[at(j, c, s.head_dim)];
                    }
                    scores.push_back(sum * scale *
                                     q.scales[static_cast<std::size_t>(query / kScaleBlock)] *
                                     k.scales[static_cast<std::size_t>(j / kScaleBlock)]);
                }
                Sums sums;
                sums.values.resize(static_cast<std::size_t>(s.head_dim));
                for (const Tile& tile : walk_of(h, query)) {
                    add_tile(sums, tile, scores, x, head_at, in_codes ? &v : nullptr, s.head_dim);
                }
                for (int c = 0; c < s.head_dim; ++c) {
                    const std::size_t i = at(t, h * s.head_dim + c, s.heads * s.head_dim);
                    const double unit = in_codes ? v.scales[static_cast<std::size_t>(c)] : 1.0;
                    expected.out[i] =
                        unit * sums.values[static_cast<std::size_t>(c)] / sums.denominator;
                    expected.tolerance[i] =
                        6e-6 + 2 * unit * 127 * sums.near_ties / sums.denominator;
                }
            }
        }
        return expected;
    }

    /// Keys a turn of the kernel's loop takes.
    static int tile_keys(int block) {
        const int keys = limits().runs_on_cpu ? 32 : 128;
        return block ? std::min(keys, block) : keys;
    }
    static Walk all_keys(int tokens) {
        Walk walk;
        for (int first = 0; first < tokens; first += tile_keys(0)) {
            const int count = std::min(tile_keys(0), tokens - first);
            walk.push_back({first, std::vector<bool>(static_cast<std::size_t>(count), true)});
        }
        return walk;
    }
    /// Row `row` of a list; `sees` says which pairs of partial blocks count.
    static void append_row(Walk& walk, const BlockMask& list, std::size_t row,
                           const std::function<bool(int key)>& sees) {
        const int tokens = list.sight.tokens();
        for (std::uint32_t e = list.row_ptr[row]; e < list.row_ptr[row + 1]; ++e) {
            const bool partial = (list.columns[e] & BlockList::kPartial) != 0;
            const int block = static_cast<int>(list.columns[e] & BlockList::kBlockMask);
            const int end = std::min((block + 1) * list.block, tokens);
            for (int first = block * list.block; first < end; first += tile_keys(list.block)) {
                Tile tile{first, {}};
                for (int j = first; j < std::min(first + tile_keys(list.block), end); ++j) {
                    tile.sees.push_back(!partial || sees(j));
                }
                walk.push_back(tile);
            }
        }
    }

    static program::Limits limits_for(const Options& o) {
        program::Limits device_limits = limits(o.arithmetic);
        if (o.binding_limit) device_limits.max_binding_bytes = o.binding_limit;
        return device_limits;
    }
    static kernels::AttentionOptions attention_options(const Shape& s, const Options& o) {
        kernels::AttentionOptions options;
        options.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
        options.products = o.products;
        return options;
    }

    /// Dense attention over operands in token order.
    static std::vector<float> run_dense(const Shape& s, const Operands& x, const Options& o) {
        Program program(limits_for(o));
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.heads * s.head_dim);
        kernels::attention(program, "attention", q, k, v, out, attention_options(s, o));
        Executor executor = executor_for(program);
        write_operands(executor, s, q, k, v, x, by_frame(s));
        write_matrix(executor, out, std::vector<float>(at(out.rows, 0, out.columns), 7.0f));
        executor.run(0);
        EXPECT_TRUE(padding_is_zero(executor, out));
        return read_matrix<float>(executor, out);
    }
    static std::vector<std::uint32_t> by_frame(const Shape& s) {
        return std::vector<std::uint32_t>(static_cast<std::size_t>(s.heads), 0);
    }

    void check_dense(const Shape& s, const Options& o, float offset = 0) {
        const Operands x = grid_operands(s, offset);
        const auto expected =
            reference_in_codes(s, x, attention_options(s, o).scale, o.products,
                               [&](int, int) { return all_keys(s.tokens()); }, {});
        expect_close(run_dense(s, x, o), expected.out, expected.tolerance,
                     fmt::format("{} heads of {}, {} tokens, {}", s.heads, s.head_dim, s.tokens(),
                                 o.products == AttentionProducts::int8 ? "int8" : "int8-qk"));
    }

    void check_sparse(const Shape& s, int band, int sink, int block, const Options& o) {
        Program program(limits_for(o));
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const Matrix out = add_kept_matrix(program, "out", s.tokens(), s.heads * s.head_dim);
        const Tensor types_tensor =
            program.add("types", static_cast<std::uint64_t>(s.heads) * 4, Lifetime::persistent);
        const BlockMask mask = band_mask(s.tokens(), band, sink, block);
        const BlockList list = attention::declare_block_list(program, "list", mask);
        kernels::AttentionOptions options = attention_options(s, o);
        options.blocks = &list;
        options.order = {types_tensor, s.frames, s.places, s.apart};
        kernels::attention(program, "attention", q, k, v, out, options);
        Executor executor = executor_for(program);
        const Operands x = grid_operands(s);
        std::vector<std::uint32_t> types;
        for (int h = 0; h < s.heads; ++h) types.push_back(static_cast<std::uint32_t>(h + 1) % 2);
        write_operands(executor, s, q, k, v, x, by_frame(s));
        write_block_list(executor, list, mask);
        write_types(executor, types_tensor, types);
        write_matrix(executor, out, std::vector<float>(at(out.rows, 0, out.columns), 7.0f));
        executor.run(0);
        const auto walk = [&](int, int i) {
            Walk result;
            append_row(result, mask, static_cast<std::size_t>(i / block),
                       [&](int j) { return std::abs(i - j) <= band || j < sink; });
            return result;
        };
        const auto expected = reference_in_codes(s, x, options.scale, o.products, walk, types);
        expect_close(read_matrix<float>(executor, out), expected.out, expected.tolerance,
                     fmt::format("{} heads of {}, {} tokens, band {}, blocks of {}", s.heads,
                                 s.head_dim, s.tokens(), band, block));
        EXPECT_TRUE(padding_is_zero(executor, out));
    }
};

TEST_F(Int8AttentionTest, DenseFollowsTheScheme) {
    for (const AttentionProducts products : kBoth) {
        for (const int head_dim : {12, 64, 128}) {
            for (const int tokens : {1, 33, 64, 65, 150}) {
                check_dense({2, head_dim, 1, tokens}, {products});
            }
        }
        check_dense({1, 6, 1, 19}, {products});
        check_dense({1, 200, 1, 70}, {products});
        check_dense({1, 512, 1, 70}, {products});
    }
}

TEST_F(Int8AttentionTest, SparseFollowsTheScheme) {
    for (const AttentionProducts products : kBoth) {
        for (const int block : {32, 64, 128}) {
            check_sparse({2, 64, 5, 60}, 40, 60, block, {products});
            check_sparse({3, 20, 7, 23}, 11, 0, block, {products});
        }
        check_sparse({1, 12, 1, 1}, 0, 1, 64, {products});
        check_sparse({2, 128, 3, 43}, 50, 0, 64, {products});
        check_sparse({2, 20, 7, 23, true}, 11, 23, 32, {products});
    }
}

TEST_F(Int8AttentionTest, SmallBindingsAreCutIntoChunks) {
    for (const AttentionProducts products : kBoth) {
        check_dense({5, 64, 1, 130}, {products, usual(), 100 << 10});
        check_sparse({3, 20, 5, 60}, 40, 60, 64, {products, usual(), 32 << 10});
    }
}

TEST_F(Int8AttentionTest, OnePassGivesBothResults) {
    struct Case {
        Shape shape;
        int band, sink, block;
    };
    for (const AttentionProducts products : kBoth) {
        for (const Case& c : {Case{{2, 64, 5, 40}, 30, 40, 32}, Case{{2, 20, 7, 23}, 11, 0, 64},
                              Case{{1, 136, 3, 50}, 9, 50, 64}}) {
            const Shape& s = c.shape;
            const Options o{products};
            const BlockMask complete =
                attention::complete_list(band_mask(s.tokens(), c.band, c.sink, c.block));
            const kernels::AttentionOptions options = attention_options(s, o);
            const Operands x = grid_operands(s);
            const auto types = types_in_turn(s);
            const auto all = run_both(limits_for(o), s, x, complete, options, by_frame(s));
            for (const bool whole : {false, true}) {
                const auto walk = [&](int, int i) {
                    const auto sees = [&](int j) {
                        return std::abs(i - j) <= c.band || j < c.sink;
                    };
                    const std::size_t row = 2 * static_cast<std::size_t>(i / c.block);
                    Walk result;
                    append_row(result, complete, row, sees);
                    if (whole)
                        append_row(result, complete, row + 1, [&](int j) { return !sees(j); });
                    return result;
                };
                const auto expected =
                    reference_in_codes(s, x, options.scale, products, walk, types);
                const std::size_t first = whole ? 0 : all.size() - s.count();
                expect_close(std::span(all).subspan(first, s.count()), expected.out,
                             expected.tolerance, whole ? "all keys" : "under the mask");
            }
        }
    }
}

TEST_F(Int8AttentionTest, TiersGiveTheSameBits) {
    if (!has_dot()) GTEST_SKIP() << "no integer dot products";
    for (const AttentionProducts products : kBoth) {
        for (const Shape& s : {Shape{2, 64, 1, 150}, Shape{1, 12, 1, 65}, Shape{1, 512, 1, 40}}) {
            const Operands x = random_operands(s);
            EXPECT_EQ(run_dense(s, x, {products, Arithmetic::portable}),
                      run_dense(s, x, {products, Arithmetic::dot}));
        }
        check_dense({2, 128, 1, 150}, {products, Arithmetic::dot});
        check_sparse({2, 64, 5, 60}, 40, 60, 64, {products, Arithmetic::dot});
    }
}

TEST_F(Int8AttentionTest, WhatAllKeysShareIsNotCoded) {
    const Shape s{2, 64, 1, 130};
    for (const AttentionProducts products : kBoth) {
        // Forty times k itself: coded along with it, k would be within one code.
        check_dense(s, {products}, 60);
        const Operands x = random_operands(s);
        Operands shifted = x;
        for (std::size_t i = 0; i < x.k.size(); ++i) {
            shifted.k[i] += 60.0f * static_cast<float>(i % 64) / 64;
        }
        const auto plain = run_dense(s, x, {products}), moved = run_dense(s, shifted, {products});
        expect_close(moved, std::vector<double>(plain.begin(), plain.end()), 2e-3,
                     "an offset of k");
    }
}

TEST_F(Int8AttentionTest, CloseToAttentionAsItIs) {
    for (const int head_dim : {64, 128}) {
        const Shape s{2, head_dim, 1, 200};
        Operands x = random_operands(s);
        for (float& value : x.q) value *= 4;  // scores that matter
        const auto exact = reference(s, x, 1.0f / std::sqrt(static_cast<float>(head_dim)),
                                     [](int, int, int) { return true; });
        double before = 1e-4;
        for (const AttentionProducts products : kBoth) {
            const auto out = run_dense(s, x, {products});
            double error = 0, norm = 0;
            for (std::size_t i = 0; i < out.size(); ++i) {
                error += (out[i] - exact[i]) * (out[i] - exact[i]);
                norm += exact[i] * exact[i];
            }
            error = std::sqrt(error / norm);
            fmt::print("heads of {}: relative error {:.5f}\n", head_dim, error);
            EXPECT_LT(error, products == AttentionProducts::int8 ? 0.06 : 0.02);
            EXPECT_GT(error, before);  // codes of v cost more than those of q and k alone
            before = error;
        }
    }
}

TEST_F(Int8AttentionTest, ZerosStayZerosAndConstantsStayConstant) {
    const Shape s{2, 20, 1, 70};
    for (const AttentionProducts products : kBoth) {
        const std::vector<float> zeros(s.count(), 0.0f), ones(s.count(), 0.75f);
        for (const float value : run_dense(s, {zeros, zeros, zeros}, {products})) {
            ASSERT_EQ(value, 0.0f);
        }
        for (const float value :
             run_dense(s, {random(s.count()), random(s.count()), ones}, {products})) {
            ASSERT_NEAR(value, 0.75f, 1e-6f);
        }
    }
}

TEST_F(Int8AttentionTest, WhatIsNotFiniteShows) {
    const Shape s{2, 20, 1, 70};
    for (const AttentionProducts products : kBoth) {
        for (const float bad :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
            for (const int operand : {0, 1, 2}) {
                Operands x = random_operands(s);
                (operand == 0 ? x.q : operand == 1 ? x.k : x.v)[at(70 + 33, 7, 20)] = bad;
                const auto out = run_dense(s, x, {products});
                bool shows = false;
                for (int t = 0; t < 70; ++t) {
                    for (int c = 0; c < 20; ++c) {
                        ASSERT_TRUE(std::isfinite(out[at(t, c, 40)])) << "of the other head";
                        shows = shows || !std::isfinite(out[at(t, 20 + c, 40)]);
                    }
                }
                EXPECT_TRUE(shows) << "operand " << operand << ", " << bad;
            }
        }
    }
}

}  // namespace
}  // namespace quantsparse::tests
