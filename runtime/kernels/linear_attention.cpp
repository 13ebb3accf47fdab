#include "kernels/linear_attention.hpp"

#include <algorithm>
#include <shaders/feature_rows.hpp>
#include <shaders/linear_attention_apply.hpp>
#include <shaders/linear_attention_fold.hpp>
#include <shaders/linear_attention_sums.hpp>

#include "kernels/loads.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::kernels {
namespace {

using program::read;
using program::write;
using shaders::ShaderId;

constexpr int kMostParts = 16;
constexpr int kLeastPart = 256;  ///< tokens
constexpr int kWidest = 256;     ///< columns of a head that linear_attention_fold.comp holds

class LinearAttention {
  public:
    LinearAttention(Program& program, const std::string& name, const HeadMatrix& q,
                    const HeadMatrix& v)
        : program_(program),
          name_(name),
          heads_(q.heads),
          tokens_(q.tokens),
          head_dim_(q.head_dim),
          dim4_(u32(q.padded_dim / 4)),
          lanes_(program.limits().runs_on_cpu ? kPrivateLanes : 64u),
          head_chunk_(
              heads_per_dispatch(program, std::max(q.head_bytes(), v.head_bytes()), q.heads)) {}

    /// fp32 [heads, tokens, 2]: of each row its largest value and one over its sum.
    Tensor feature_rows(const char* what, const HeadMatrix& x) {
        const Tensor rows = program_.add(name_ + what, head_count() * u32(tokens_) * 8);
        each_chunk([&](int head, int heads) {
            program_.dispatch(name_ + what, ShaderId::feature_rows, {lanes_},
                              {read_heads(x, head, heads), write(rows)},
                              shaders::feature_rows::Push{.tokens = u32(tokens_),
                                                          .stride = u32(x.token_stride),
                                                          .dim4 = dim4_,
                                                          .head_dim = u32(head_dim_),
                                                          .first_head = u32(head)},
                              {ceil_div(u32(tokens_), lanes_), u32(heads), 1},
                              10.0 * tokens_ * head_dim_ * heads);
        });
        return rows;
    }

    /// fp32 [heads, padded_dim + 1, padded_dim]: what the queries' features multiply.
    Tensor fold(const HeadMatrix& k, const HeadMatrix& v, Tensor rows,
                const FloatWeight& projection) {
        const int part = std::max((tokens_ + kMostParts - 1) / kMostParts, kLeastPart);
        const std::uint32_t parts = ceil_div(u32(tokens_), u32(part));
        const std::uint64_t matrix_bytes = std::uint64_t{4 * dim4_ + 1} * dim4_ * 16;
        const Tensor partials = program_.add(name_ + ".sums", head_count() * parts * matrix_bytes);
        const double work = 2.0 * tokens_ * head_dim_ * head_dim_;
        each_chunk([&](int head, int heads) {
            program_.dispatch(name_ + ".sums", ShaderId::linear_attention_sums, {lanes_},
                              {read_heads(k, head, heads), read_heads(v, head, heads), read(rows),
                               write(partials)},
                              shaders::linear_attention_sums::Push{.tokens = u32(tokens_),
                                                                   .stride = u32(k.token_stride),
                                                                   .dim4 = dim4_,
                                                                   .head_dim = u32(head_dim_),
                                                                   .part = u32(part),
                                                                   .parts = parts,
                                                                   .first_head = u32(head)},
                              {ceil_div(std::uint64_t{dim4_} * dim4_, lanes_), parts, u32(heads)},
                              work * heads);
        });
        const Tensor folded = program_.add(name_ + ".folded", head_count() * matrix_bytes);
        program_.dispatch(name_ + ".fold", ShaderId::linear_attention_fold, {lanes_},
                          {read(partials), read(projection.panels.front().tensor), write(folded)},
                          shaders::linear_attention_fold::Push{
                              .dim4 = dim4_, .head_dim = u32(head_dim_), .parts = parts},
                          {4 * dim4_ + 1, u32(heads_), 1},
                          static_cast<double>(head_dim_) * head_dim_ *
                              (2 * head_dim_ + static_cast<int>(parts)) * heads_);
        return folded;
    }

    void apply(const HeadMatrix& q, Tensor rows, Tensor folded, Tensor bias, const Matrix& out) {
        const int row_chunk =
            std::min(kMaxRows, rows_per_dispatch(program_, out.row_bytes(), out.rows));
        each_chunk([&](int head, int heads) {
            for (int first = 0; first < tokens_; first += row_chunk) {
                const int count = std::min(row_chunk, tokens_ - first);
                auto bound = write_rows(out, first, count);
                bound = program::read_write(bound.tensor, bound.offset, bound.bytes);
                program_.dispatch(
                    name_, ShaderId::linear_attention_apply, {lanes_},
                    {read_heads(q, head, heads), read(rows), read(folded), read(bias), bound},
                    shaders::linear_attention_apply::Push{.tokens = u32(tokens_),
                                                          .stride = u32(q.token_stride),
                                                          .dim4 = dim4_,
                                                          .head_dim = u32(head_dim_),
                                                          .first_head = u32(head),
                                                          .first_row = u32(first),
                                                          .row_count = u32(count),
                                                          .out_stride = u32(out.stride)},
                    {ceil_div(std::uint64_t{u32(count)} * dim4_, lanes_), u32(heads), 1},
                    2.0 * count * head_dim_ * head_dim_ * heads);
            }
        });
    }

  private:
    std::uint64_t head_count() const { return static_cast<std::uint64_t>(heads_); }

    template <typename Run>
    void each_chunk(const Run& run) {
        for (int head = 0; head < heads_; head += head_chunk_) {
            run(head, std::min(head_chunk_, heads_ - head));
        }
    }

    Program& program_;
    const std::string& name_;
    int heads_, tokens_, head_dim_;
    std::uint32_t dim4_;
    std::uint32_t lanes_;
    int head_chunk_;
};

}  // namespace

void add_linear_attention(Program& program, const std::string& name, const HeadMatrix& q,
                          const HeadMatrix& k, const HeadMatrix& v, const FloatWeight& projection,
                          const Matrix& out) {
    if (q.head_dim > kWidest) {
        throw Error(ErrorCode::unsupported, "linear attention takes heads of up to 256 columns");
    }
    LinearAttention linear(program, name, q, v);
    const Tensor q_rows = linear.feature_rows(".q_features", q);
    const Tensor k_rows = linear.feature_rows(".k_features", k);
    const Tensor folded = linear.fold(k, v, k_rows, projection);
    linear.apply(q, q_rows, folded, projection.bias, out);
}

}  // namespace quantsparse::kernels
