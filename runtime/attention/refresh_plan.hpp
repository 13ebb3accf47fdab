// Where the refreshes of sparse attention stand in a clip, when nobody says. What a refresh leaves
// behind grows stale: between two refreshes the error of a step is about the drift of the residual
// since the last one, and it moves the latent as far as the step goes. So the sum of both is made
// as small as so many refreshes can make it.
#pragma once

#include <array>
#include <span>
#include <vector>

namespace quantsparse::attention {

inline constexpr int kDriftLevels = 50;

/// How far the residual D = full - sparse attention has moved since a clip began, summed over steps
/// as ||D_i - D_(i-1)|| / ||full||, at the noise levels 1, 0.98 ... 0.02.
using DriftCurve = std::array<float, kDriftLevels>;

/// That of the bundled model at W4A8, 50 steps, a quarter of the pairs: "second order, adjacent
/// steps" of bench/results/replay-w4a8.json. For models that bring none of their own.
const DriftCurve& usual_drift();

/// Linear between the levels, constant below the last.
double drift_at(const DriftCurve& curve, double sigma);

/// How many refreshes a clip of so many steps gets when nobody says: a fifth of them, rounded up,
/// as the paper's interval gives; two for 4 to 8 steps, where a second one is worth most.
int usual_refreshes(int steps);

/// What a step does to the clip and how far the residual has drifted there.
struct RefreshStep {
    double weight = 0;  ///< of an error in it
    double drift = 0;
};

/// The `count` steps, the first among them, for which the sum of weight * (drift - drift at the
/// last refresh) over all other steps is least. Of equal ones the earliest.
std::vector<int> place_refreshes(std::span<const RefreshStep> steps, int count);

}  // namespace quantsparse::attention
