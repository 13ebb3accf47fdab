// A clip's noise: its first latent, and what samplers add on the way.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "quantsparse/sampler.hpp"
#include "sampling/torch_random.hpp"

namespace quantsparse::sampling {

class NoiseSource {
  public:
    NoiseSource(Rng rng, std::uint64_t seed);
    /// Other numbers with each call: Philox's next stream, or where torch's generator stands.
    void fill(std::span<float> out);

  private:
    struct PhiloxStreams {
        std::uint64_t seed = 0;
        std::uint32_t next = 0;
    };
    std::variant<PhiloxStreams, TorchGenerator> source_;
};

}  // namespace quantsparse::sampling
