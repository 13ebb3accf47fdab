// How fast what a band mask leaves out of self-attention changes while a clip is made: the curve by
// which the runtime places refreshes (method 5.2). Seen on one clip that is generated anyway.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <vector>

#include "calib/attention.hpp"

namespace quantsparse::calib {

class DriftRecorder {
  public:
    explicit DriftRecorder(std::size_t blocks) : blocks_(blocks) {}

    /// A block's q, k, v [tokens, heads, d] in this step, the blocks in any order. `grid`: frames,
    /// rows, columns. The residual, dense minus masked attention, is taken on a sample of the rows
    /// and compared with that of the step before.
    void observe(std::size_t block, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                 const std::array<std::int64_t, 3>& grid);
    /// All blocks were observed at this noise level.
    void end_step(double sigma);

    /// Summed drift at format::kDriftLevels levels 1, 0.98 ... 0.02, the mean of the blocks; below
    /// the last step it goes on as it came. Empty with fewer than four steps, which show no shape,
    /// and where text takes part in self-attention.
    std::vector<float> curve() const;

  private:
    struct Block {
        BandMask mask;        ///< of the first step: a residual belongs to its mask
        at::Tensor residual;  ///< [heads, rows, d]
        double drift = 0;     ///< of this step, relative to dense attention
    };
    struct Point {
        double sigma = 0;
        double drift = 0;  ///< summed
    };

    std::vector<Block> blocks_;
    std::vector<Point> points_;
};

}  // namespace quantsparse::calib
