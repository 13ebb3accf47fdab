// AdamW without weight decay: what is learned here (scales, rotations, clipping) has no size to be
// pulled to zero (method 10.29).
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace quantsparse::calib {

struct ParameterGroup {
    std::vector<at::Tensor> parameters;  ///< leaves that require gradients
    double rate = 1e-3;
};

class AdamW {
  public:
    explicit AdamW(std::vector<ParameterGroup> groups);
    /// One step with every rate times `factor`; takes the gradients and clears them.
    void step(double factor);

  private:
    struct Moments {
        at::Tensor first, second;
    };
    std::vector<ParameterGroup> groups_;
    std::vector<std::vector<Moments>> moments_;
    int steps_ = 0;
};

/// Cosine from 1 at step 0 to 1e-3 at the last of `steps`.
double cosine_factor(int step, int steps);

}  // namespace quantsparse::calib
