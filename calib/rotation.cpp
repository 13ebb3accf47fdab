#include "calib/rotation.hpp"

#include "sampling/scheduler.hpp"

namespace quantsparse::calib {

std::vector<float> rotation_signs(std::uint64_t seed, std::uint64_t stream, int width) {
    // The multiplier (2^64 / golden ratio) keeps streams away from the seeds that clips are drawn
    // with.
    std::vector<float> signs(static_cast<std::size_t>(width));
    sampling::fill_gaussian(seed ^ (stream * 0x9E3779B97F4A7C15ULL), signs);
    for (auto& sign : signs) {
        sign = sign < 0 ? -1.0f : 1.0f;
    }
    return signs;
}

}  // namespace quantsparse::calib
