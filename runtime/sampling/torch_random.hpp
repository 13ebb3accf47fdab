// The normal numbers that torch.randn gives on the CPU in float32, for who wants the noise of a
// seed in diffusers or ComfyUI. Layout of ATen/native/cpu/DistributionTemplates.h; equal to about
// 1e-6, since torch's logarithm and sine differ from machine to machine.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>

namespace quantsparse::sampling {

/// torch.Generator().manual_seed(seed); as there, the seed's lower 32 bits are used.
class TorchGenerator {
  public:
    explicit TorchGenerator(std::uint64_t seed);
    /// torch.randn(out.size(), generator=self): each call goes on where the last one ended.
    void fill_gaussian(std::span<float> out);

  private:
    float uniform_float();    ///< 24 bits, in [0, 1)
    double uniform_double();  ///< 53 bits, in [0, 1)
    double next_normal();     ///< of short tensors, in double

    std::mt19937 engine_;
    std::optional<double> kept_;  ///< the second of the last pair of next_normal()
};

}  // namespace quantsparse::sampling
