#include "attention/low_rank.hpp"

#include <fmt/format.h>
#include <shaders/low_rank_eigen.hpp>
#include <shaders/low_rank_orthonormal.hpp>
#include <shaders/low_rank_products.hpp>
#include <shaders/low_rank_seed.hpp>
#include <shaders/low_rank_sum.hpp>

#include "kernels/loads.hpp"
#include "kernels/specialization.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::attention {
namespace {

using kernels::add_matrix;
using kernels::ceil_div;
using kernels::read_rows;
using kernels::round_up;
using kernels::Specialization;
using kernels::u32;
using program::read;
using program::unused;
using program::write;
using shaders::ShaderId;

/// Rows of a chunk of A^T B: enough chunks to fill a device, few enough that their sums stay small.
constexpr int kChunkRows = 256;
constexpr int kMaxChunks = 64;

/// Of a round of Cholesky-QR: above low_rank_orthonormal.comp's smallest pivot.
constexpr float kShift = 4e-6f;

/// Lanes of the one work-group that makes a Gram matrix.
constexpr std::uint32_t kWideGroup = 256;

std::uint32_t lanes_for(const Program& program, std::uint32_t wanted = 64) {
    const program::Limits& limits = program.limits();
    return limits.runs_on_cpu ? 8u : std::min(wanted, limits.max_invocations);
}

/// A small row-major matrix [k, columns] as the right operand of a product, whose columns land in
/// `out` from `first_column` on.
kernels::FloatWeight as_weight(const Matrix& m, int k, int columns, int first_column = 0) {
    kernels::FloatWeight weight;
    weight.n = columns;
    weight.k = k;
    weight.panels.push_back({m.tensor, first_column, columns});
    return weight;
}

class Projection {
  public:
    Projection(Program& program, const std::string& name, const Matrix& x,
               const LowRankFactors& factors, const LowRankOptions& options)
        : program_(program),
          name_(name),
          x_(x),
          factors_(factors),
          options_(options),
          size_(std::min({factors.rank + options.oversampling, x.rows, x.columns})) {
        if (factors.rank < 1 || size_ > kMaxColumns || factors.first_column % 4) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("{}: a projection to rank {} with {} more columns can't be "
                                    "run: at most {} together",
                                    name, factors.rank, options.oversampling, kMaxColumns));
        }
    }

    void append() {
        Matrix v = seed();
        for (int i = 0; i < options_.iterations; ++i) {
            const bool last = i + 1 == options_.iterations;
            v = orthonormal(products(x_, rows_of(v), true), last);
        }
        const Matrix y = rows_of(v);
        const Matrix turn = eigenvectors(products(y, y), factors_.rank);
        const auto weight = as_weight(turn, size_, factors_.rank, factors_.first_column);
        kernels::matmul(program_, name_ + ".u", y, weight, factors_.u);
        kernels::matmul(program_, name_ + ".v", v, weight, factors_.v);
    }

  private:
    bool masked() const { return options_.mask.valid(); }
    program::Binding mask() const {
        return masked() ? read(options_.mask) : unused(factors_.v.tensor);
    }

    Matrix seed() {
        const Matrix v = add_matrix(program_, name_ + ".basis", x_.columns, size_);
        const bool seeded = options_.seed.valid();
        using Constant = shaders::low_rank_seed::Constant;
        program_.dispatch(
            name_ + ".seed", ShaderId::low_rank_seed,
            Specialization<Constant>(kernels::row_lanes(program_),
                                     {{Constant::masked, masked()}, {Constant::seeded, seeded}}),
            {read(factors_.v.tensor), write(v.tensor), mask(),
             seeded ? read(options_.seed) : unused(factors_.v.tensor)},
            shaders::low_rank_seed::Push{.n = u32(x_.columns),
                                         .rank = u32(factors_.rank),
                                         .oversampled = u32(size_),
                                         .basis_stride = u32(factors_.v.stride),
                                         .basis_column = u32(factors_.first_column),
                                         .out_stride = u32(v.stride),
                                         .head_dim = u32(options_.head_dim),
                                         .mask_offset = u32(options_.mask_offset),
                                         .seed_index = u32(options_.seed_index)},
            {u32(v.stride), 1, 1}, 4.0 * x_.columns * size_);
        return v;
    }

    /// A^T B [columns of A, columns of B] of two tall matrices with the same rows.
    Matrix products(const Matrix& a, const Matrix& b, bool mask_rows = false) {
        const int a4 = static_cast<int>(ceil_div(static_cast<std::uint64_t>(a.columns), 4));
        const int b4 = b.stride / 4;
        const int bound =
            kernels::rows_per_dispatch(program_, std::max(a.row_bytes(), b.row_bytes()), a.rows);
        int chunk_rows = std::max(kChunkRows, round_up((a.rows + kMaxChunks - 1) / kMaxChunks, 64));
        chunk_rows = std::min(chunk_rows, std::max(64, bound / 64 * 64));
        const int range = std::max(1, bound / chunk_rows) * chunk_rows;  // rows a dispatch binds
        const int chunks = (a.rows + chunk_rows - 1) / chunk_rows;
        const Matrix out = add_matrix(program_, name_ + ".z", a.columns, b.columns);
        const Tensor partial =
            program_.add(name_ + ".partial", static_cast<std::uint64_t>(chunks) *
                                                 static_cast<std::uint64_t>(a4) *
                                                 static_cast<std::uint64_t>(b4) * 64);
        const std::uint32_t lanes = lanes_for(program_);
        constexpr int kVectors = 2;  // low_rank_products.comp
        const kernels::Loads load = kernels::loads(program_, {read(a.tensor), read(b.tensor)});
        for (int first = 0; first < a.rows; first += range) {
            const int rows = std::min(range, a.rows - first);
            program_.dispatch(
                name_ + ".products",
                load.texels ? ShaderId::low_rank_products_texels : ShaderId::low_rank_products,
                {lanes},
                {load(read_rows(a, first, rows)), load(read_rows(b, first, rows)), write(partial)},
                shaders::low_rank_products::Push{.rows = u32(rows),
                                                 .chunk_rows = u32(chunk_rows),
                                                 .a4 = u32(a4),
                                                 .b4 = u32(b4),
                                                 .a_stride4 = u32(a.stride / 4),
                                                 .b_stride4 = u32(b.stride / 4),
                                                 .first_chunk = u32(first / chunk_rows)},
                {ceil_div(u32(a4), lanes), ceil_div(u32(rows), u32(chunk_rows)),
                 ceil_div(u32(b4), kVectors)},
                2.0 * rows * a.columns * b.columns);
        }
        const bool use_mask = mask_rows && masked();
        using Constant = shaders::low_rank_sum::Constant;
        program_.dispatch(
            name_ + ".sum", ShaderId::low_rank_sum,
            Specialization<Constant>(lanes, {{Constant::masked, use_mask}}),
            {read(partial), write(out.tensor), use_mask ? mask() : unused(factors_.v.tensor)},
            shaders::low_rank_sum::Push{.chunks = u32(chunks),
                                        .rows = u32(a.columns),
                                        .partial_rows = u32(4 * a4),
                                        .b4 = u32(b4),
                                        .head_dim = u32(options_.head_dim),
                                        .mask_offset = u32(options_.mask_offset)},
            {ceil_div(static_cast<std::uint64_t>(a.columns) * static_cast<std::uint64_t>(b4),
                      lanes),
             1, 1},
            static_cast<double>(chunks) * a.columns * b.columns);
        return out;
    }

    /// X V
    Matrix rows_of(const Matrix& v) {
        const Matrix y = add_matrix(program_, name_ + ".y", x_.rows, size_);
        kernels::matmul(program_, name_ + ".rows", x_, as_weight(v, x_.columns, size_), y);
        return y;
    }

    /// An orthonormal basis of the columns. X^T X squares how far apart they are in length: it
    /// takes two shifted rounds until they are independent enough to iterate, and a third without
    /// a shift to make them orthonormal (`exact`).
    Matrix orthonormal(Matrix z, bool exact) {
        using Constant = shaders::low_rank_orthonormal::Constant;
        std::vector<float> shifts = {kShift, kShift};
        if (exact) shifts.push_back(0.0f);
        for (const float shift : shifts) {
            const Matrix triangle = add_matrix(program_, name_ + ".triangle", size_, size_);
            const kernels::Loads load = kernels::loads(program_, {read(z.tensor)});
            program_.dispatch(name_ + ".orthonormal",
                              load.texels ? ShaderId::low_rank_orthonormal_texels
                                          : ShaderId::low_rank_orthonormal,
                              Specialization<Constant>(lanes_for(program_, kWideGroup),
                                                       {{Constant::size, u32(size_)}}),
                              {load(read(z.tensor)), write(triangle.tensor)},
                              shaders::low_rank_orthonormal::Push{
                                  .rows = u32(z.rows), .stride = u32(z.stride), .shift = shift},
                              {1, 1, 1}, 2.0 * size_ * size_ * (z.rows + 2.0 * size_));
            const Matrix turned = add_matrix(program_, name_ + ".basis", z.rows, size_);
            kernels::matmul(program_, name_ + ".turn", z, as_weight(triangle, size_, size_),
                            turned);
            z = turned;
        }
        return z;
    }

    Matrix eigenvectors(const Matrix& gram, int wanted) {
        using Constant = shaders::low_rank_eigen::Constant;
        const Matrix out = add_matrix(program_, name_ + ".eigenvectors", size_, wanted);
        program_.dispatch(
            name_ + ".eigen", ShaderId::low_rank_eigen,
            Specialization<Constant>(lanes_for(program_), {{Constant::size, u32(size_)}}),
            {read(gram.tensor), write(out.tensor)},
            shaders::low_rank_eigen::Push{.gram_stride = u32(gram.stride),
                                          .out_stride = u32(out.stride),
                                          .wanted = u32(wanted)},
            {1, 1, 1}, 100.0 * size_ * size_ * size_);
        return out;
    }

    Program& program_;
    const std::string& name_;
    const Matrix& x_;
    const LowRankFactors& factors_;
    const LowRankOptions& options_;
    int size_;  ///< columns the iteration carries
};

}  // namespace

int usable_rank(int wanted, int rows, int columns) {
    return std::max(1, std::min({wanted, rows, columns, kMaxRank}));
}

void project_low_rank(Program& program, const std::string& name, const Matrix& x,
                      const LowRankFactors& factors, const LowRankOptions& options) {
    Projection(program, name, x, factors, options).append();
}

}  // namespace quantsparse::attention
