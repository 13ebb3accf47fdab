#include "quantsparse/tuning.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <vector>

#include "kernels/matrix_tiles.hpp"
#include "kernels/quantized_matmul.hpp"
#include "pipeline/stage.hpp"
#include "program/executor.hpp"
#include "vulkan/device.hpp"
#include "vulkan/tuning_file.hpp"

namespace quantsparse {
namespace {

constexpr int kRounds = 5;
/// A tile must beat the default by this much: less is noise.
constexpr double kWorthwhile = 1.03;

/// One product of the 1.3B model in one tier and tile: W4A8, but W8A8 on CPU drivers, where
/// products with 4 bits are the same in all of them.
class Candidate {
  public:
    Candidate(Device& device, const Tuning& tuning) : tuning_(tuning) {
        program::Limits limits = pipeline::device_limits(device.internal());
        limits.product_lanes = tuning.product_lanes;
        limits.product_rows = tuning.product_rows;
        limits.preferred_matrix_tile = tuning.matrix_tile;
        const int m = limits.runs_on_cpu ? 256 : 2048, k = 1536, n = 1536;
        operations_ = 2.0 * m * k * n;
        program::Program program(limits);
        const auto x = kernels::add_matrix(program, "x", m, k, program::Lifetime::persistent);
        const auto y = kernels::add_matrix(program, "y", m, n, program::Lifetime::persistent);
        const auto weight =
            kernels::add_quantized_weight(program, "w", n, k, limits.runs_on_cpu ? 8 : 4, false);
        const auto rows = kernels::quantize_rows(program, "quantize", x, {}, 8);
        kernels::matmul(program, kProduct, rows, weight, y);
        has_timestamps_ = device.info().timestamps;
        executor_ =
            std::make_unique<program::Executor>(device.internal(), program, has_timestamps_);
        for (const program::Tensor tensor : {x.tensor, weight.words, weight.scale}) {
            executor_->clear(tensor);  // speed does not depend on the values
        }
        executor_->run(0);
    }

    void run() {
        using Clock = std::chrono::steady_clock;
        const double before = product_seconds();
        const auto start = Clock::now();
        executor_->run(0);
        const double seconds = has_timestamps_
                                   ? product_seconds() - before
                                   : std::chrono::duration<double>(Clock::now() - start).count();
        if (seconds > 0 && (fastest_ == 0 || seconds < fastest_)) fastest_ = seconds;
    }

    const Tuning& tuning() const { return tuning_; }
    double rate() const { return fastest_ > 0 ? operations_ / fastest_ : 0; }

  private:
    static constexpr const char* kProduct = "product";

    double product_seconds() const {
        for (const auto& operation : executor_->profile()) {
            if (operation.name == kProduct) return operation.milliseconds * 1e-3;
        }
        return 0;
    }

    Tuning tuning_;
    double operations_ = 0;
    bool has_timestamps_ = false;
    std::unique_ptr<program::Executor> executor_;
    double fastest_ = 0;  ///< seconds
};

std::vector<Arithmetic> tiers(const DeviceOptions& options, const DeviceInfo& info,
                              Arithmetic chosen_by_default) {
    if (options.arithmetic != Arithmetic::automatic) return {options.arithmetic};
    std::vector<Arithmetic> result = {Arithmetic::portable};
    if (info.integer_dot_product) result.push_back(Arithmetic::dot);
    // Not offered to CPU drivers, nor under validation layers that reject its kernels: what the
    // default says of it holds.
    if (chosen_by_default == Arithmetic::matrix) result.push_back(Arithmetic::matrix);
    return result;
}

/// All tiles but the default of the tier.
std::vector<Tuning> tiles(Arithmetic tier, const program::Limits& limits) {
    std::vector<Tuning> result;
    if (tier == Arithmetic::matrix) {
        for (std::size_t i = 0; i < kernels::kMatrixTiles.size(); ++i) {
            result.push_back({tier, 0, 0, static_cast<int>(i)});
        }
        return result;
    }
    // CPU drivers run any width alike (llvmpipe: within 1 %) and compile tall tiles for seconds.
    const std::vector<std::uint32_t> lanes = limits.runs_on_cpu
                                                 ? std::vector<std::uint32_t>{8}
                                                 : std::vector<std::uint32_t>{32, 64, 128, 256};
    const std::vector<std::uint32_t> heights = limits.runs_on_cpu
                                                   ? std::vector<std::uint32_t>{8, 32}
                                                   : std::vector<std::uint32_t>{8, 16, 32};
    for (const std::uint32_t rows : heights) {
        for (const std::uint32_t width : lanes) {
            if (width <= limits.max_invocations) result.push_back({tier, width, rows, -1});
        }
    }
    return result;
}

std::string name_of(const Tuning& tuning) {
    std::string name = arithmetic_name(tuning.arithmetic);
    if (tuning.product_rows) {
        name +=
            fmt::format(", {} x 4 columns by {} rows", tuning.product_lanes, tuning.product_rows);
    }
    if (tuning.matrix_tile >= 0) name += fmt::format(", tile {}", tuning.matrix_tile);
    return name;
}

}  // namespace

std::optional<TuningResult> tune(const DeviceOptions& options, TuningScope scope,
                                 const TuningCallbacks& callbacks) {
    const auto proceed = [&] { return !callbacks.proceed || callbacks.proceed(); };
    DeviceOptions untuned = options;
    untuned.ignore_tuning = true;
    TuningResult best;
    std::vector<Arithmetic> wanted;
    {
        const Device device(untuned);
        wanted = tiers(options, device.info(), device.arithmetic());
        best.file = device.internal().tuning_file();
    }
    if (!vulkan::can_keep_tuning(best.file)) {  // each run would measure anew, for nothing
        best.file.clear();
        return best;
    }
    std::vector<Device> devices;  // outlive the candidates
    devices.reserve(wanted.size());
    std::vector<Candidate> candidates;
    const auto measure = [&](std::size_t first, double worthwhile) {
        for (int round = 0; round < kRounds; ++round) {
            for (Candidate& candidate : candidates) {
                if (!proceed()) return false;
                candidate.run();
            }
        }
        for (std::size_t i = 0; i < candidates.size(); ++i) {
            const Candidate& candidate = candidates[i];
            const double rate = candidate.rate();
            if (callbacks.trial && i >= first) {
                callbacks.trial({candidate.tuning(), name_of(candidate.tuning()), rate});
            }
            if (rate > best.operations_a_second * (i ? worthwhile : 1)) {
                best.tuning = candidate.tuning();
                best.operations_a_second = rate;
            }
        }
        return true;
    };
    for (const Arithmetic tier : wanted) {
        untuned.arithmetic = tier;
        devices.emplace_back(untuned);
        candidates.emplace_back(devices.back(), Tuning{tier, 0, 0, -1});
        if (!proceed()) return std::nullopt;
    }
    if (!measure(0, 1)) return std::nullopt;
    if (scope == TuningScope::arithmetic_and_tiles && best.operations_a_second > 0) {
        const Arithmetic tier = best.tuning.arithmetic;
        const auto winner = std::find(wanted.begin(), wanted.end(), tier) - wanted.begin();
        Device& device = devices[static_cast<std::size_t>(winner)];
        std::vector<Candidate> plain;  // measured again, beside the tiles
        plain.push_back(std::move(candidates[static_cast<std::size_t>(winner)]));
        candidates = std::move(plain);
        best.operations_a_second = 0;
        for (const Tuning& tile : tiles(tier, pipeline::device_limits(device.internal()))) {
            candidates.emplace_back(device, tile);
            if (!proceed()) return std::nullopt;
        }
        if (!measure(1, kWorthwhile)) return std::nullopt;
    }
    if (best.operations_a_second == 0) best.tuning = {};  // nothing could be timed
    if (!vulkan::write_tuning(best.file, best.tuning)) best.file.clear();
    return best;
}

}  // namespace quantsparse
