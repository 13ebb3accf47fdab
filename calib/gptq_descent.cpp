#include "calib/gptq_descent.hpp"

#include <algorithm>

#include "calib/parallel.hpp"
#include "calib/progress.hpp"
#include "calib/quantizers.hpp"

namespace quantsparse::calib {
namespace {

constexpr std::int64_t kVisited = 128;      // visited one by one before a product moves the others
constexpr std::int64_t kDescentRows = 256;  // of a weight that one thread goes over

/// Some rows of a weight.
class RowDescent {
  public:
    RowDescent(const at::Tensor& weight, std::span<const float> scale, int bits,
               const OutputError& error, std::span<std::int8_t> codes)
        : scale_(scale),
          codes_(codes),
          hessian_(error.hessian),
          added_(static_cast<float>(error.added)),
          highest_(static_cast<float>((1 << (bits - 1)) - 1)),
          errors_(weight.clone()) {
        const auto k = weight.size(1);
        float* values = errors_.data_ptr<float>();
        for (std::int64_t i = 0; i < errors_.numel(); ++i) {
            values[i] -= static_cast<float>(codes_[static_cast<std::size_t>(i)]) *
                         scale_[static_cast<std::size_t>(i / k)];
        }
    }

    void pass() {
        // Of e H: half the gradient, moved along with the errors.
        auto slopes = at::mm(errors_, hessian_).add_(errors_, added_);
        const auto k = errors_.size(1);
        for (std::int64_t start = 0; start < k; start += kVisited) {
            const auto end = std::min(start + kVisited, k);
            const auto moved = visit(start, end, slopes);
            if (end < k) {
                slopes.narrow(1, end, k - end)
                    .addmm_(moved, hessian_.narrow(0, start, end - start).narrow(1, end, k - end));
            }
        }
    }

  private:
    /// Returns what the columns' errors changed by, [rows, end - start].
    at::Tensor visit(std::int64_t start, std::int64_t end, const at::Tensor& slopes) {
        const auto k = errors_.size(1);
        auto moved = at::zeros({errors_.size(0), end - start}, at::kFloat);
        const float* h = hessian_.data_ptr<float>();
        for (std::int64_t row = 0; row < errors_.size(0); ++row) {
            const float scale = scale_[static_cast<std::size_t>(row)];
            float* slope = slopes.data_ptr<float>() + row * k;
            float* error = errors_.data_ptr<float>() + row * k;
            float* change = moved.data_ptr<float>() + row * (end - start);
            std::int8_t* codes = codes_.data() + row * k;
            for (std::int64_t c = start; c < end; ++c) {
                const float curvature = h[c * k + c] + added_;
                const float wanted = static_cast<float>(codes[c]) + slope[c] / (curvature * scale);
                const float code = half_to_even(std::clamp(wanted, -highest_ - 1.0f, highest_));
                const float step = (static_cast<float>(codes[c]) - code) * scale;
                if (!(curvature > 0) || step == 0) {
                    continue;
                }
                for (std::int64_t r = c + 1; r < end; ++r) {
                    slope[r] += step * h[c * k + r];
                }
                error[c] += step;
                change[c - start] = step;
                codes[c] = static_cast<std::int8_t>(code);
            }
        }
        return moved;
    }

    std::span<const float> scale_;
    std::span<std::int8_t> codes_;
    const at::Tensor& hessian_;
    float added_, highest_;
    at::Tensor errors_;  ///< weight - Q(weight)
};

}  // namespace

void descend(std::span<const float> weight, int n, int k, int bits, const OutputError& error,
             int passes, int threads, format::QuantizedWeight& quantized) {
    if (!error.hessian.defined()) {
        return;  // inputs of zeros: any codes are as good
    }
    const OneThreadPerOperation exact;
    const auto pieces = static_cast<std::size_t>((n + kDescentRows - 1) / kDescentRows);
    in_parallel(pieces, threads, [&](std::size_t piece) {
        const at::NoGradGuard no_gradients;
        const auto first = piece * static_cast<std::size_t>(kDescentRows);
        const auto rows =
            std::min(static_cast<std::size_t>(kDescentRows), static_cast<std::size_t>(n) - first);
        const auto width = static_cast<std::size_t>(k);
        // from_blob takes a mutable pointer; the weight is only read.
        const auto source = at::from_blob(const_cast<float*>(weight.data() + first * width),
                                          {static_cast<std::int64_t>(rows), k}, at::kFloat);
        RowDescent descent(source, std::span(quantized.scale).subspan(first, rows), bits, error,
                           std::span(quantized.codes).subspan(first * width, rows * width));
        for (int pass = 0; pass < passes; ++pass) {
            check_cancelled();
            descent.pass();
        }
    });
}

}  // namespace quantsparse::calib
