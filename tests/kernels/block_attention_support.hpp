// What tests of block-sparse attention and of the profiling of heads share: shapes in two orders of
// tokens, attention by its definition, operands whose rows past the last token hold NaN.
#pragma once

#include <cmath>
#include <functional>
#include <limits>

#include "attention/block_mask.hpp"
#include "kernels/head_profile.hpp"
#include "support.hpp"

namespace quantsparse::tests {

using attention::BlockMask;
using kernels::BlockList;
using kernels::HeadMatrix;

class BlockAttentionTest : public DeviceTest {
  protected:
    struct Shape {
        int heads, head_dim, frames, places;
        bool apart = false;  ///< temporal heads hold frame 0 as it is, then the others
        int text_in_front = 0, text_behind = 0;
        int grid() const { return frames * places; }
        int tokens() const { return text_in_front + grid() + text_behind; }
        bool is_text(int token) const {
            return token < text_in_front || token >= text_in_front + grid();
        }
        std::size_t count() const { return at(heads * tokens(), 0, head_dim); }
        int place_index(int token) const {
            if (is_text(token)) return token;
            return text_in_front + place_in_grid(token - text_in_front);
        }
        int place_in_grid(int token) const {
            if (!apart) return token % places * frames + token / places;
            if (token < places) return token;
            return places + token % places * (frames - 1) + token / places - 1;
        }
    };
    /// Values [heads, tokens, head_dim], frame by frame.
    struct Operands {
        std::vector<float> q, k, v;
    };
    using Predicate = std::function<bool(int head, int i, int j)>;

    /// The band among the grid's tokens; text sees all and is seen by all.
    static attention::Sight sight_of(const Shape& s, int band, int sink) {
        const int begin = s.text_in_front, end = begin + s.grid();
        attention::Sight sight;
        sight.prefix = begin + sink;
        sight.suffix = end;
        for (int i = 0; i < s.tokens(); ++i) {
            sight.ranges.push_back(s.is_text(i) ? attention::KeyRange{0, s.tokens()}
                                                : attention::KeyRange{std::max(begin, i - band),
                                                                      std::min(end, i + band + 1)});
        }
        return sight;
    }

    Operands random_operands(const Shape& s) {
        return {random(s.count()), random(s.count()), random(s.count())};
    }

    /// out[token, head * head_dim + c] by the definition; `sees` is asked in frame order.
    static std::vector<double> reference(const Shape& s, const Operands& x, float scale,
                                         const Predicate& sees) {
        std::vector<double> out(s.count());
        const int tokens = s.tokens();
        for (int h = 0; h < s.heads; ++h) {
            for (int i = 0; i < tokens; ++i) {
                std::vector<double> weight(static_cast<std::size_t>(tokens), 0.0);
                double largest = -1e300, total = 0;
                for (int j = 0; j < tokens; ++j) {
                    if (!sees(h, i, j)) continue;
                    double score = 0;
                    for (int d = 0; d < s.head_dim; ++d) {
                        score += static_cast<double>(x.q[at(h * tokens + i, d, s.head_dim)]) *
                                 static_cast<double>(x.k[at(h * tokens + j, d, s.head_dim)]);
                    }
                    weight[static_cast<std::size_t>(j)] = score * scale;
                    largest = std::max(largest, score * scale);
                }
                for (int j = 0; j < tokens; ++j) {
                    double& w = weight[static_cast<std::size_t>(j)];
                    w = sees(h, i, j) ? std::exp(w - largest) : 0;
                    total += w;
                }
                for (int d = 0; d < s.head_dim; ++d) {
                    double y = 0;
                    for (int j = 0; j < tokens; ++j) {
                        y += weight[static_cast<std::size_t>(j)] *
                             static_cast<double>(x.v[at(h * tokens + j, d, s.head_dim)]);
                    }
                    out[at(i, h * s.head_dim + d, s.heads * s.head_dim)] = y / total;
                }
            }
        }
        return out;
    }

    static HeadMatrix add_heads(Program& program, const char* name, const Shape& s) {
        return kernels::add_head_matrix(program, name, s.heads, s.tokens(), s.head_dim,
                                        Lifetime::persistent);
    }
    /// Temporal heads are stored place by place.
    static void write_heads(Executor& executor, const Shape& s, const HeadMatrix& m,
                            const std::vector<float>& values,
                            const std::vector<std::uint32_t>& types) {
        std::vector<float> padded(m.head_bytes() / 4 * static_cast<std::size_t>(m.heads),
                                  std::numeric_limits<float>::quiet_NaN());
        for (int h = 0; h < s.heads; ++h) {
            for (int t = 0; t < s.tokens(); ++t) {
                const int position = types[static_cast<std::size_t>(h)] ? s.place_index(t) : t;
                for (int c = 0; c < m.padded_dim; ++c) {
                    padded[at(h * m.token_stride + position, c, m.padded_dim)] =
                        c < s.head_dim ? values[at(h * s.tokens() + t, c, s.head_dim)] : 0.0f;
                }
            }
        }
        executor.write_values(m.tensor, std::span<const float>(padded));
    }

    static void write_operands(Executor& executor, const Shape& s, const HeadMatrix& q,
                               const HeadMatrix& k, const HeadMatrix& v, const Operands& x,
                               const std::vector<std::uint32_t>& types) {
        write_heads(executor, s, q, x.q, types);
        write_heads(executor, s, k, x.k, types);
        write_heads(executor, s, v, x.v, types);
    }
    /// Attention under the mask and over all keys in one pass, heads spatial and temporal in turn:
    /// the rows over all keys, the gap before the others, and those under the mask. Operands are
    /// written as heads of types `stored`.
    std::vector<float> run_both(const program::Limits& limits, const Shape& s, const Operands& x,
                                const BlockMask& complete, kernels::AttentionOptions options,
                                const std::vector<std::uint32_t>& stored) {
        Program program(limits);
        const auto q = add_heads(program, "q", s), k = add_heads(program, "k", s),
                   v = add_heads(program, "v", s);
        const int behind = kernels::round_up(s.tokens(), 64);
        const Matrix results =
            add_kept_matrix(program, "results", behind + s.tokens(), s.heads * s.head_dim);
        const Matrix out = results.slice(0, s.tokens()), masked = results.slice(behind, s.tokens());
        EXPECT_TRUE(kernels::attends_both(program, out, masked, options.products));
        const Tensor types =
            program.add("types", static_cast<std::uint64_t>(s.heads) * 4, Lifetime::persistent);
        const BlockList list = attention::declare_block_list(program, "list", complete);
        options.blocks = &list;
        options.order = {types, s.frames, s.places, false};
        options.masked = &masked;
        kernels::attention(program, "attention", q, k, v, out, options);
        Executor executor = executor_for(program);
        write_operands(executor, s, q, k, v, x, stored);
        write_block_list(executor, list, complete);
        write_types(executor, types, types_in_turn(s));
        executor.run(0);
        return read_matrix<float>(executor, results);
    }
    static std::vector<std::uint32_t> types_in_turn(const Shape& s) {
        std::vector<std::uint32_t> types;
        for (int h = 0; h < s.heads; ++h) types.push_back(static_cast<std::uint32_t>(h) % 2);
        return types;
    }
    static BlockMask band_mask(int tokens, int band, int sink, int block) {
        return attention::make_block_mask(attention::band_sight(tokens, band, sink), block);
    }
    static void write_types(Executor& executor, Tensor tensor, std::vector<std::uint32_t> types) {
        types.resize(executor.program().bytes_of(tensor) / 4);
        executor.write_values(tensor, std::span<const std::uint32_t>(types));
    }
};

}  // namespace quantsparse::tests
