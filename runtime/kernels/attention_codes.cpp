#include "kernels/attention_codes.hpp"

#include <algorithm>
#include <shaders/head_columns.hpp>
#include <shaders/quantize_heads.hpp>
#include <shaders/quantize_values.hpp>

#include "kernels/specialization.hpp"

namespace quantsparse::kernels {
namespace {

/// The kernels of one call, each over as many heads as can be bound at once.
class Coder {
  public:
    Coder(Program& program, std::string name, const AttentionCodes& codes)
        : program_(program),
          name_(std::move(name)),
          codes_(codes),
          lanes_(row_lanes(program)),
          stride_(u32(codes.q_blocks + codes.k_blocks + codes.columns)) {}

    /// Mean or largest magnitude over 127 of each column, to `out` [heads, out_stride].
    void columns(const char* what, const HeadMatrix& x, int tokens, bool peak, Tensor out,
                 int out_stride, int out_offset) {
        chunks(x, [&](int head, int heads, const program::Binding& values) {
            using Constant = shaders::head_columns::Constant;
            const Specialization<Constant> constants(
                lanes_, {{Constant::row_lanes, lanes_ / 4}, {Constant::peak, peak}});
            program_.dispatch(name_ + what, shaders::ShaderId::head_columns, constants,
                              {values, program::write(out)},
                              shaders::head_columns::Push{.tokens = u32(tokens),
                                                          .stride = u32(x.token_stride),
                                                          .dim4 = dim4(x),
                                                          .first_head = u32(head),
                                                          .out_stride = u32(out_stride),
                                                          .out_offset = u32(out_offset)},
                              {u32(codes_.columns / 16), u32(heads), 1}, work(x, tokens, heads));
        });
    }

    /// Of q, or with `means` of k.
    void heads(const char* what, const HeadMatrix& x, int tokens, Tensor means, Tensor codes,
               int scale_offset, float factor) {
        chunks(x, [&](int head, int heads, const program::Binding& values) {
            using Constant = shaders::quantize_heads::Constant;
            program_.dispatch(
                name_ + what, shaders::ShaderId::quantize_heads,
                Specialization<Constant>(lanes_, {{Constant::has_mean, means.valid()}}),
                {values, means.valid() ? program::read(means) : program::unused(x.tensor),
                 code_heads(x, codes, head, heads), program::write(codes_.scales)},
                shaders::quantize_heads::Push{.tokens = u32(tokens),
                                              .stride = u32(x.token_stride),
                                              .dim4 = dim4(x),
                                              .dim16 = dim16(),
                                              .first_head = u32(head),
                                              .scale_stride = stride_,
                                              .scale_offset = u32(scale_offset),
                                              .factor = factor},
                {ceil_div(u32(tokens), AttentionCodes::kScaleBlock), u32(heads), 1},
                2 * work(x, tokens, heads));
        });
    }

    void values(const char* what, const HeadMatrix& x, int tokens) {
        chunks(x, [&](int head, int heads, const program::Binding& values) {
            program_.dispatch(
                name_ + what, shaders::ShaderId::quantize_values, {lanes_},
                {values, program::read(codes_.scales), code_heads(x, codes_.v, head, heads)},
                shaders::quantize_values::Push{
                    .tokens = u32(tokens),
                    .stride = u32(x.token_stride),
                    .dim4 = dim4(x),
                    .dim16 = dim16(),
                    .first_head = u32(head),
                    .scale_stride = stride_,
                    .scale_offset = u32(codes_.q_blocks + codes_.k_blocks)},
                {ceil_div(std::uint64_t{u32(x.token_stride / 4)} * dim4(x), lanes_), u32(heads), 1},
                work(x, tokens, heads));
        });
    }

  private:
    static std::uint32_t dim4(const HeadMatrix& x) { return u32(x.padded_dim / 4); }
    std::uint32_t dim16() const { return u32(codes_.columns / 16); }
    static double work(const HeadMatrix& x, int tokens, int heads) {
        return 1.0 * tokens * x.padded_dim * heads;
    }
    template <typename Dispatch>
    void chunks(const HeadMatrix& x, Dispatch&& dispatch) {
        const int chunk = heads_per_dispatch(program_, x.head_bytes(), x.heads);
        for (int head = 0; head < x.heads; head += chunk) {
            const int heads = std::min(chunk, x.heads - head);
            dispatch(head, heads, read_heads(x, head, heads));
        }
    }
    program::Binding code_heads(const HeadMatrix& x, Tensor codes, int head, int heads) const {
        return program::write(codes, codes_.head_bytes(x) * static_cast<std::uint64_t>(head),
                              codes_.head_bytes(x) * static_cast<std::uint64_t>(heads));
    }

    Program& program_;
    std::string name_;
    const AttentionCodes& codes_;
    std::uint32_t lanes_;
    std::uint32_t stride_;  ///< of a head's scales
};

}  // namespace

AttentionCodes quantize_operands(Program& program, const std::string& name, const HeadMatrix& q,
                                 const HeadMatrix& k, const HeadMatrix& v,
                                 const CodeOptions& options, program::Lifetime lifetime) {
    AttentionCodes codes;
    codes.columns = round_up(q.padded_dim, 16);
    const auto blocks = [](const HeadMatrix& m) {
        return (m.tokens + AttentionCodes::kScaleBlock - 1) / AttentionCodes::kScaleBlock;
    };
    codes.q_blocks = blocks(q);
    codes.k_blocks = blocks(k);
    const auto add = [&](const char* what, const HeadMatrix& m) {
        return program.add(name + what, codes.head_bytes(m) * static_cast<std::uint64_t>(m.heads),
                           lifetime);
    };
    codes.q = add(".q_codes", q);
    codes.k = add(".k_codes", k);
    if (options.values) codes.v = add(".v_codes", v);
    const auto floats = [&](const char* what, int count) {
        return program.add(
            name + what,
            static_cast<std::uint64_t>(q.heads) * static_cast<std::uint64_t>(count) * 4, lifetime);
    };
    codes.scales = floats(".scales", codes.q_blocks + codes.k_blocks + codes.columns);
    const Tensor means = floats(".k_means", codes.columns);

    Coder coder(program, name, codes);
    coder.columns(".k_means", k, options.keys, false, means, codes.columns, 0);
    coder.heads(".quantize_q", q, q.tokens, {}, codes.q, 0, options.scale);
    coder.heads(".quantize_k", k, options.keys, means, codes.k, codes.q_blocks, 1);
    if (options.values) {
        coder.columns(".v_scales", v, options.keys, true, codes.scales,
                      codes.q_blocks + codes.k_blocks + codes.columns,
                      codes.q_blocks + codes.k_blocks);
        coder.values(".quantize_v", v, options.keys);
    }
    return codes;
}

}  // namespace quantsparse::kernels
