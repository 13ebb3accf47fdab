#include "sampling/torch_random.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

namespace quantsparse::sampling {
namespace {

constexpr std::size_t kBlock = 16;  ///< 8 radii, 8 angles

/// Box-Muller in place: [8 radii, 8 angles] of uniform numbers to normal ones. Radius and angle are
/// rounded to float where torch rounds them.
void make_normal(std::span<float> block) {
    constexpr float kTwoPi = static_cast<float>(2 * std::numbers::pi);
    for (std::size_t k = 0; k < kBlock / 2; ++k) {
        const float inverse = 1 - block[k];  // in (0, 1], for the logarithm
        const float angle = kTwoPi * block[k + kBlock / 2];
        const auto radius =
            static_cast<float>(std::sqrt(-2 * std::log(static_cast<double>(inverse))));
        block[k] = static_cast<float>(radius * std::cos(static_cast<double>(angle)));
        block[k + kBlock / 2] = static_cast<float>(radius * std::sin(static_cast<double>(angle)));
    }
}

}  // namespace

TorchGenerator::TorchGenerator(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {}

float TorchGenerator::uniform_float() {
    return static_cast<float>(engine_() & 0xFFFFFF) * 0x1p-24f;
}

double TorchGenerator::uniform_double() {
    const std::uint64_t high = engine_();
    const std::uint64_t bits = high << 32 | engine_();
    return static_cast<double>(bits & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

double TorchGenerator::next_normal() {
    if (kept_) return *std::exchange(kept_, std::nullopt);
    const double angle = 2 * std::numbers::pi * uniform_double();
    const double radius = std::sqrt(-2 * std::log1p(-uniform_double()));
    kept_ = radius * std::sin(angle);
    return radius * std::cos(angle);
}

void TorchGenerator::fill_gaussian(std::span<float> out) {
    if (out.size() < kBlock) {
        std::generate(out.begin(), out.end(), [this] { return static_cast<float>(next_normal()); });
        return;
    }
    const auto fill_uniform = [this](std::span<float> values) {
        std::generate(values.begin(), values.end(), [this] { return uniform_float(); });
    };
    fill_uniform(out);
    for (std::size_t first = 0; first + kBlock <= out.size(); first += kBlock) {
        make_normal(out.subspan(first, kBlock));
    }
    if (out.size() % kBlock != 0) {  // the last 16 anew
        fill_uniform(out.last(kBlock));
        make_normal(out.last(kBlock));
    }
}

}  // namespace quantsparse::sampling
