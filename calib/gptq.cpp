#include "calib/gptq.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "calib/parallel.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"

namespace quantsparse::calib {
namespace {

constexpr std::int64_t kFactorTile = 256;  // of matrices that threads share
constexpr std::int64_t kColumns = 128;     // rounded one by one before a product takes the rest
constexpr std::int64_t kWeightRows = 256;  // of a weight that one thread rounds

std::int64_t tile_count(std::int64_t size) {
    return (size + kFactorTile - 1) / kFactorTile;
}

/// The rows (dimension 0) or columns (1) of a row or column of tiles.
at::Tensor strip_of(const at::Tensor& matrix, int dimension, std::int64_t index) {
    const auto start = index * kFactorTile;
    return matrix.narrow(dimension, start, std::min(kFactorTile, matrix.size(dimension) - start));
}

at::Tensor tile_of(const at::Tensor& matrix, std::int64_t row, std::int64_t column) {
    return strip_of(strip_of(matrix, 0, row), 1, column);
}

/// The lower Cholesky factor of a [k, k], fp64, in place of its lower triangle; false when it is
/// not positive definite. Tiles are fixed, so that any number of threads gives the same factor.
bool factorize(const at::Tensor& a, int threads) {
    const auto tiles = tile_count(a.size(0));
    for (std::int64_t p = 0; p < tiles; ++p) {
        check_cancelled();
        const auto pivot = tile_of(a, p, p);
        const auto [factor, failed] = at::linalg_cholesky_ex(pivot);
        if (failed.item<int>() != 0) {
            return false;
        }
        pivot.copy_(factor);
        const auto below = static_cast<std::size_t>(tiles - p - 1);
        in_parallel(below, threads, [&](std::size_t i) {
            const at::NoGradGuard no_gradients;
            const auto panel = tile_of(a, p + 1 + static_cast<std::int64_t>(i), p);
            panel.copy_(at::linalg_solve_triangular(factor.t(), panel, /*upper=*/true,
                                                    /*left=*/false));
        });
        in_parallel(below * below, threads, [&](std::size_t pair) {
            const auto i = p + 1 + static_cast<std::int64_t>(pair / below);
            const auto j = p + 1 + static_cast<std::int64_t>(pair % below);
            if (j <= i) {
                const at::NoGradGuard no_gradients;
                tile_of(a, i, j).addmm_(tile_of(a, i, p), tile_of(a, j, p).t(), 1, -1);
            }
        });
    }
    return true;
}

/// The damped matrix in the order of rounding, fp64 [k, k].
at::Tensor damped(const at::Tensor& hessian, const std::vector<std::int64_t>& order, double added) {
    const auto k = hessian.size(0);
    const auto columns = at::tensor(order, at::kLong);
    auto result = at::empty({k, k}, at::kDouble);
    for (std::int64_t start = 0; start < k; start += kFactorTile) {
        const auto rows = strip_of(columns, 0, start / kFactorTile);
        result.narrow(0, start, rows.size(0))
            .copy_(hessian.index_select(0, rows).index_select(1, columns));
    }
    result.diagonal().add_(added);
    return result;
}

/// Some rows of a weight, columns in the order of rounding.
class RowRounder {
  public:
    RowRounder(at::Tensor weight, std::span<const float> scale, int bits, const at::Tensor& shares)
        : weight_(std::move(weight)),
          errors_(at::zeros_like(weight_)),
          scale_(scale),
          shares_(shares),
          highest_(static_cast<float>((1 << (bits - 1)) - 1)) {}

    /// Codes in the order of rounding, [rows, k].
    at::Tensor run() {
        auto codes = at::empty(weight_.sizes(), at::kChar);
        for (std::int64_t end = weight_.size(1); end > 0;) {
            const auto start = std::max<std::int64_t>(end - kColumns, 0);
            round_columns(start, end, codes);
            end = start;
        }
        return codes;
    }

  private:
    void round_columns(std::int64_t start, std::int64_t end, at::Tensor& codes) {
        const auto count = end - start;
        const auto done = weight_.size(1) - end;
        auto wanted = weight_.narrow(1, start, count).clone(at::MemoryFormat::Contiguous);
        if (done > 0) {
            wanted = wanted + at::mm(errors_.narrow(1, end, done),
                                     shares_.narrow(0, end, done).narrow(1, start, count));
        }
        const auto k = weight_.size(1);
        const float* shares = shares_.data_ptr<float>();
        for (std::int64_t row = 0; row < weight_.size(0); ++row) {
            const float scale = scale_[static_cast<std::size_t>(row)];
            const float* original = weight_.data_ptr<float>() + row * k;
            float* line = wanted.data_ptr<float>() + row * count;
            float* errors = errors_.data_ptr<float>() + row * k;
            std::int8_t* out = codes.data_ptr<std::int8_t>() + row * k;
            for (std::int64_t s = end - 1; s >= start; --s) {
                const float code = std::clamp(line[s - start] / scale, -highest_ - 1.0f, highest_);
                const float rounded = half_to_even(code);
                const float error = original[s] - rounded * scale;
                const float* share = shares + s * k + start;
                for (std::int64_t r = 0; r < s - start; ++r) {
                    line[r] += error * share[r];
                }
                errors[s] = error;
                out[s] = static_cast<std::int8_t>(rounded);
            }
        }
    }

    at::Tensor weight_;
    at::Tensor errors_;  ///< weight - Q(weight) of the columns that are rounded
    std::span<const float> scale_;
    const at::Tensor& shares_;
    float highest_;
};

}  // namespace

at::Tensor transformed_hessian(const at::Tensor& hessian, std::span<const float> channel_scale,
                               const at::Tensor& rotation, int threads) {
    const at::NoGradGuard no_gradients;
    const OneThreadPerOperation exact;
    const auto k = hessian.size(0);
    auto inverse = at::empty({k}, at::kFloat);
    std::transform(channel_scale.begin(), channel_scale.end(), inverse.data_ptr<float>(),
                   [](float c) { return 1.0f / c; });
    auto result = hessian * inverse.unsqueeze(1);
    result.mul_(inverse);
    if (!rotation.defined()) {
        return result;
    }
    const auto b = rotation.size(1);
    const auto turns = rotation.to(at::kFloat);
    const auto blocks = static_cast<std::size_t>(rotation.size(0));
    in_parallel(blocks, threads, [&](std::size_t index) {
        const at::NoGradGuard no_gradients_here;
        const auto i = static_cast<std::int64_t>(index);
        const auto columns = result.narrow(1, i * b, b);
        columns.copy_(at::mm(columns, turns[i]));
    });
    in_parallel(blocks, threads, [&](std::size_t index) {
        const at::NoGradGuard no_gradients_here;
        const auto i = static_cast<std::int64_t>(index);
        const auto rows = result.narrow(0, i * b, b);
        rows.copy_(at::mm(turns[i].t(), rows));
    });
    return result;
}

ErrorFeedback error_feedback(const at::Tensor& hessian, double damping, int threads) {
    constexpr double kMostDamping = 100.0;
    const at::NoGradGuard no_gradients;
    const OneThreadPerOperation exact;
    const auto k = hessian.size(0);
    const auto diagonal = hessian.diagonal().to(at::kDouble).contiguous();
    const double* sizes = diagonal.data_ptr<double>();
    const double mean = std::accumulate(sizes, sizes + k, 0.0) / static_cast<double>(k);
    ErrorFeedback feedback;
    feedback.order.resize(static_cast<std::size_t>(k));
    std::iota(feedback.order.begin(), feedback.order.end(), std::int64_t{0});
    feedback.shares = at::zeros({k, k}, at::kFloat);
    if (!(mean > 0) || !std::isfinite(mean)) {
        return feedback;  // inputs of zeros: any rounding is as good
    }
    std::stable_sort(feedback.order.begin(), feedback.order.end(),
                     [&](std::int64_t a, std::int64_t b) { return sizes[a] < sizes[b]; });
    for (double share = damping; share <= kMostDamping; share *= 10) {
        const auto factor = damped(hessian, feedback.order, share * mean);
        if (!factorize(factor, threads)) {
            continue;
        }
        const auto pivots = factor.diagonal().clone();
        in_parallel(static_cast<std::size_t>(tile_count(k)), threads, [&](std::size_t index) {
            const at::NoGradGuard no_gradients_here;
            const auto start = static_cast<std::int64_t>(index) * kFactorTile;
            strip_of(feedback.shares, 0, start / kFactorTile)
                .copy_(strip_of(factor, 0, start / kFactorTile).div(pivots).tril(start - 1));
        });
        feedback.error = {hessian, share * mean};
        break;
    }
    return feedback;
}

std::optional<ErrorFeedback> group_feedback(const format::LinearGroup& group, const Method& method,
                                            const BlockHessians& hessians,
                                            std::span<const float> channel_scale,
                                            const at::Tensor& rotation, int threads) {
    constexpr double kDamping = 0.01;         // GPTQ's
    constexpr double kRefinedDamping = 0.03;  // measured: 0.01 and 0.1 are worse
    constexpr double kTextDamping = 0.1;
    if (method.rounding == Rounding::nearest) {
        return std::nullopt;
    }
    const auto hessian =
        transformed_hessian(hessians.find(group.name)->second, channel_scale, rotation, threads);
    const double damping = method.rounding == Rounding::refined ? kRefinedDamping : kDamping;
    return error_feedback(hessian, group.once_per_prompt ? kTextDamping : damping, threads);
}

format::QuantizedWeight quantize_with_feedback(std::span<const float> weight, int n, int k,
                                               int bits, std::span<const float> gamma,
                                               const ErrorFeedback& feedback, int threads) {
    auto result = format::quantize_weight(weight, n, k, bits, gamma);  // for its scales
    const OneThreadPerOperation exact;
    const auto columns = at::tensor(feedback.order, at::kLong);
    const auto pieces = static_cast<std::size_t>((n + kWeightRows - 1) / kWeightRows);
    in_parallel(pieces, threads, [&](std::size_t piece) {
        const at::NoGradGuard no_gradients;
        check_cancelled();
        const auto first = piece * static_cast<std::size_t>(kWeightRows);
        const auto rows =
            std::min(static_cast<std::size_t>(kWeightRows), static_cast<std::size_t>(n) - first);
        const auto width = static_cast<std::size_t>(k);
        // from_blob takes a mutable pointer; the weight is only read.
        const auto source = at::from_blob(const_cast<float*>(weight.data() + first * width),
                                          {static_cast<std::int64_t>(rows), k}, at::kFloat);
        RowRounder rounder(source.index_select(1, columns),
                           std::span(result.scale).subspan(first, rows), bits, feedback.shares);
        const auto codes = rounder.run();
        const auto* ordered = codes.data_ptr<std::int8_t>();
        for (std::size_t row = 0; row < rows; ++row) {
            for (std::size_t s = 0; s < width; ++s) {
                const auto column = static_cast<std::size_t>(feedback.order[s]);
                result.codes[(first + row) * width + column] = ordered[row * width + s];
            }
        }
    });
    return result;
}

format::QuantizedWeight round_weight(std::span<const float> weight, int n, int k, int bits,
                                     std::span<const float> gamma, Rounding rounding,
                                     const std::optional<ErrorFeedback>& feedback, int threads) {
    constexpr int kPasses = 2;  // of descent; a third changes hardly any code
    if (!feedback) {
        return format::quantize_weight(weight, n, k, bits, gamma);
    }
    auto result = quantize_with_feedback(weight, n, k, bits, gamma, *feedback, threads);
    if (rounding == Rounding::refined) {
        descend(weight, n, k, bits, feedback->error, kPasses, threads, result);
    }
    return result;
}

}  // namespace quantsparse::calib
