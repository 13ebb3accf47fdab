#include "sampling/noise.hpp"

#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

NoiseSource::NoiseSource(Rng rng, std::uint64_t seed) : source_(PhiloxStreams{seed, 0}) {
    if (rng == Rng::torch) source_.emplace<TorchGenerator>(seed);
}

void NoiseSource::fill(std::span<float> out) {
    if (auto* torch = std::get_if<TorchGenerator>(&source_)) {
        torch->fill_gaussian(out);
    } else {
        auto& philox = std::get<PhiloxStreams>(source_);
        fill_gaussian(philox.seed, out, philox.next++);
    }
}

}  // namespace quantsparse::sampling
