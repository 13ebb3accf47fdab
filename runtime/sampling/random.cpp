#include <cmath>
#include <numbers>

#include "sampling/philox.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::sampling {

std::array<std::uint32_t, 4> philox_4x32_10(std::array<std::uint32_t, 4> counter,
                                            std::array<std::uint32_t, 2> key) {
    constexpr int kRounds = 10;
    for (int round = 0; round < kRounds; ++round) {
        const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
                   static_cast<std::uint32_t>(product1),
                   static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
                   static_cast<std::uint32_t>(product0)};
        key[0] += 0x9E3779B9;  // golden ratio
        key[1] += 0xBB67AE85;  // sqrt(3) - 1
    }
    return counter;
}

void fill_gaussian(std::uint64_t seed, std::span<float> out, std::uint32_t stream) {
    const std::array<std::uint32_t, 2> key = {static_cast<std::uint32_t>(seed),
                                              static_cast<std::uint32_t>(seed >> 32)};
    // The middle of each of 2^32 cells: never 0 (its logarithm) and never 1.
    const auto uniform = [](std::uint32_t bits) { return (bits + 0.5) * 0x1p-32; };
    for (std::size_t first = 0; first < out.size(); first += 4) {
        const std::uint64_t block = first / 4;
        const auto bits = philox_4x32_10(
            {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), stream, 0},
            key);
        std::array<float, 4> normal{};
        for (std::size_t pair = 0; pair < 4; pair += 2) {  // Box-Muller
            const double radius = std::sqrt(-2 * std::log(uniform(bits[pair])));
            const double angle = 2 * std::numbers::pi * uniform(bits[pair + 1]);
            normal[pair] = static_cast<float>(radius * std::cos(angle));
            normal[pair + 1] = static_cast<float>(radius * std::sin(angle));
        }
        for (std::size_t k = 0; k < 4 && first + k < out.size(); ++k) {
            out[first + k] = normal[k];
        }
    }
}

}  // namespace quantsparse::sampling
