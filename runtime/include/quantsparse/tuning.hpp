// Measuring what is fastest on a device, once. Devices opened later with Arithmetic::automatic use
// what was found; results do not depend on it beyond what the tiers' own arithmetic allows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "quantsparse/device.hpp"

namespace quantsparse {

/// Zeros and -1 stand for the defaults of the device's kind.
struct Tuning {
    Arithmetic arithmetic = Arithmetic::automatic;  ///< tier of the integer products
    // Of products by the dot and portable tiers:
    std::uint32_t product_lanes = 0;  ///< invocations of a work-group, each with 4 columns
    std::uint32_t product_rows = 0;   ///< rows an invocation computes
    int matrix_tile = -1;             ///< of the matrix tier: kernels/matrix_tiles.hpp

    friend bool operator==(const Tuning&, const Tuning&) = default;
};

/// One candidate that was timed, on the product of W4A8 that most of a transformer consists of.
struct TuningTrial {
    Tuning tuning;
    std::string name;  ///< "dot" or "dot, 128 x 4 columns by 16 rows"
    double operations_a_second = 0;
};

struct TuningResult {
    Tuning tuning;
    double operations_a_second = 0;
    std::filesystem::path file;  ///< where it is kept; empty: it can't be
};

enum class TuningScope { arithmetic, arithmetic_and_tiles };

struct TuningCallbacks {
    std::function<bool()> proceed;  ///< asked now and then; false stops
    std::function<void(const TuningTrial&)> trial;
};

/// Times the tiers the device has, then, if asked, the tiles of the fastest, and keeps the fastest
/// beside the device's pipeline cache. `options.arithmetic` other than automatic leaves only that
/// tier. Candidates take turns, so that a device that is slow for a while is slow for all of them.
/// Takes about a second a tier and tile, most of it the driver's compiler, and up to 400 MiB of the
/// device. Measures nothing where nothing can be kept; std::nullopt when stopped. Throws as Device
/// does.
std::optional<TuningResult> tune(const DeviceOptions& options, TuningScope scope,
                                 const TuningCallbacks& callbacks = {});

}  // namespace quantsparse
