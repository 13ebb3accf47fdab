// Frames per second as a fraction, so that a film's 24000/1001 stays exact in the file.
#pragma once

#include <cmath>
#include <numeric>

namespace quantsparse::video {

struct FrameRate {
    long numerator = 16;
    long denominator = 1;
    double per_second() const {
        return static_cast<double>(numerator) / static_cast<double>(denominator);
    }
};

/// To thousandths, in lowest terms. `per_second`: at most 1000.
inline FrameRate frame_rate(double per_second) {
    const long thousandths = std::lround(per_second * 1000);
    const long divisor = std::gcd(thousandths, 1000L);
    return {thousandths / divisor, 1000 / divisor};
}

}  // namespace quantsparse::video
