#include "calib/drift.hpp"

#include <algorithm>

#include "calib/band.hpp"
#include "format/model_bundle.hpp"

namespace quantsparse::calib {
namespace {

constexpr double kDensity = 0.25;        // the runtime's default
constexpr std::int64_t kMostRows = 256;  // whose residual is kept
constexpr std::size_t kFewestSteps = 4;
constexpr double kLeastWay = 1e-6;  // between two steps' noise levels

/// Attention of some rows, [heads, rows, d].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const BandMask& mask, const at::Tensor& rows) {
    return at::matmul(attention_rows(q.index_select(0, rows), k, mask, rows), v.transpose(0, 1));
}

}  // namespace

void DriftRecorder::observe(std::size_t block, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::array<std::int64_t, 3>& grid) {
    const std::int64_t tokens = q.size(0), count = std::min(tokens, kMostRows);
    if (grid[0] * grid[1] * grid[2] != tokens) return;  // text among them: the band is another
    Block& b = blocks_.at(block);
    const auto rows = at::arange(count, at::kLong).mul(tokens).div(count, "floor");
    if (b.mask.dense()) b.mask = choose_band(q, k, v, grid, kDensity);
    const auto dense = attend(q, k, v, {}, rows);
    const auto residual = dense - attend(q, k, v, b.mask, rows);
    if (b.residual.defined()) {
        b.drift = (residual - b.residual).norm().item<double>() /
                  std::max(dense.norm().item<double>(), 1e-30);
    }
    b.residual = residual;
}

void DriftRecorder::end_step(double sigma) {
    double mean = 0;
    for (const Block& block : blocks_) mean += block.drift / static_cast<double>(blocks_.size());
    points_.push_back({sigma, (points_.empty() ? 0 : points_.back().drift) + mean});
}

std::vector<float> DriftRecorder::curve() const {
    const bool seen = std::all_of(blocks_.begin(), blocks_.end(),
                                  [](const Block& block) { return block.residual.defined(); });
    if (!seen || points_.size() < kFewestSteps) return {};
    std::vector<float> curve;
    std::size_t after = 1;  // the first point at or below the level, else the last
    for (std::size_t i = 0; i < format::kDriftLevels; ++i) {
        const double sigma = 1 - static_cast<double>(i) / static_cast<double>(format::kDriftLevels);
        while (after + 1 < points_.size() && points_[after].sigma > sigma) ++after;
        const Point &from = points_[after - 1], &to = points_[after];
        const double part =
            std::max(0.0, (from.sigma - sigma) / std::max(from.sigma - to.sigma, kLeastWay));
        curve.push_back(static_cast<float>(from.drift + part * (to.drift - from.drift)));
    }
    return curve;
}

}  // namespace quantsparse::calib
