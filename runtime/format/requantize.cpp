#include "format/requantize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "format/bit_packing.hpp"
#include "format/model_file.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

constexpr int kBits = 8;
// Rows at a time: their words of the packed matrix are one line of the cache.
constexpr int kRows = 16;

/// ||a - scale b||^2 and ||a||^2 of a row, in as many sums as vector units are wide.
std::array<double, 2> squares(std::span<const float> values, std::span<const std::int8_t> codes,
                              float scale) {
    constexpr std::size_t kLanes = 8;
    std::array<float, kLanes> difference{}, weight{};
    for (std::size_t i = 0; i + kLanes <= values.size(); i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const float value = values[i + lane];
            const float error = value - scale * static_cast<float>(codes[i + lane]);
            difference[lane] += error * error;
            weight[lane] += value * value;
        }
    }
    for (std::size_t i = values.size() / kLanes * kLanes; i < values.size(); ++i) {
        const float error = values[i] - scale * static_cast<float>(codes[i]);
        difference[0] += error * error;
        weight[0] += values[i] * values[i];
    }
    std::array<double, 2> sums{};
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
        sums[0] += static_cast<double>(difference[lane]);
        sums[1] += static_cast<double>(weight[lane]);
    }
    return sums;
}

/// A linear whose weight is floating point in the file and in codes for everybody else.
class PackedLinear {
  public:
    /// `weight`: [rows, width], whatever its own shape.
    PackedLinear(TensorView weight, int rows, int width, std::shared_ptr<RequantizationError> error)
        : weight_(std::move(weight)), rows_(rows), width_(width), error_(std::move(error)) {}

    std::vector<std::int64_t> codes_shape() const {
        return format::codes_shape(rows_, width_, kBits);
    }
    /// All words of the packed matrix (bit_packing.hpp).
    void pack(std::span<std::byte> out) const;
    /// Those of the last pack(), which loaders call first; else in a pass of its own.
    std::vector<float> scales() const;

  private:
    QuantizedWeight quantize(int first, int count, std::vector<float>& values) const;
    void keep(std::vector<float> scales, double difference, double weight) const;

    TensorView weight_;
    int rows_, width_;
    std::shared_ptr<RequantizationError> error_;
    mutable std::mutex mutex_;
    mutable std::optional<std::vector<float>> scales_;
};

QuantizedWeight PackedLinear::quantize(int first, int count, std::vector<float>& values) const {
    values.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(width_));
    to_float(weight_.slice(std::int64_t{first} * width_, std::int64_t{count} * width_), values);
    try {
        return quantize_weight(values, count, width_, kBits);
    } catch (const Error& error) {
        throw Error(error.code(), fmt::format("tensor '{}' holds NaN or infinity; the file is "
                                              "damaged",
                                              weight_.name));
    }
}

void PackedLinear::pack(std::span<std::byte> out) const {
    std::fill(out.begin(), out.end(), std::byte{});
    const auto columns = static_cast<std::size_t>(packed_n(rows_));
    const auto width = static_cast<std::size_t>(width_);
    std::vector<float> values, scales;
    double difference = 0, weight = 0;
    for (int first = 0; first < rows_; first += kRows) {
        const auto count = static_cast<std::size_t>(std::min(kRows, rows_ - first));
        const QuantizedWeight part = quantize(first, static_cast<int>(count), values);
        for (std::size_t i = 0; i < width; i += 4) {
            const std::size_t word = i / 4 * columns + static_cast<std::size_t>(first);
            const std::size_t bytes = std::min<std::size_t>(4, width - i);
            for (std::size_t row = 0; row < count; ++row) {
                std::memcpy(out.data() + 4 * (word + row), part.codes.data() + row * width + i,
                            bytes);
            }
        }
        for (std::size_t row = 0; row < count; ++row) {
            const auto sums =
                squares(std::span<const float>(values).subspan(row * width, width),
                        std::span(part.codes).subspan(row * width, width), part.scale[row]);
            difference += sums[0];
            weight += sums[1];
        }
        scales.insert(scales.end(), part.scale.begin(), part.scale.end());
    }
    keep(std::move(scales), difference, weight);
}

void PackedLinear::keep(std::vector<float> scales, double difference, double weight) const {
    const std::scoped_lock lock(mutex_);
    if (!scales_) {
        error_->add(difference, weight);
        scales_ = std::move(scales);
    }
}

std::vector<float> PackedLinear::scales() const {
    {
        const std::scoped_lock lock(mutex_);
        if (scales_) {
            return *scales_;
        }
    }
    std::vector<float> values, scales;
    for (int first = 0; first < rows_; first += kRows) {
        const auto part = quantize(first, std::min(kRows, rows_ - first), values).scale;
        scales.insert(scales.end(), part.begin(), part.end());
    }
    return scales;
}

/// Copies a part of a whole that is made at once.
void copy_part(std::span<const std::byte> whole, std::int64_t first_byte,
               std::span<std::byte> out) {
    const auto part = whole.subspan(static_cast<std::size_t>(first_byte), out.size());
    std::copy(part.begin(), part.end(), out.begin());
}

class Codes final : public ComputedTensor {
  public:
    explicit Codes(std::shared_ptr<const PackedLinear> linear) : linear_(std::move(linear)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        const auto shape = linear_->codes_shape();
        const auto bytes = static_cast<std::size_t>(shape[0] * shape[1] * 4);
        if (out.size() == bytes) {
            return linear_->pack(out);
        }
        std::vector<std::byte> whole(bytes);
        linear_->pack(whole);
        copy_part(whole, first * 4, out);
    }

  private:
    std::shared_ptr<const PackedLinear> linear_;
};

class Scales final : public ComputedTensor {
  public:
    explicit Scales(std::shared_ptr<const PackedLinear> linear) : linear_(std::move(linear)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        copy_part(std::as_bytes(std::span<const float>(linear_->scales())), first * 4, out);
    }

  private:
    std::shared_ptr<const PackedLinear> linear_;
};

/// The bias of a linear that has none: quantised ones always do.
class Zeros final : public ComputedTensor {
  public:
    void read(std::int64_t, std::span<std::byte> out) const override {
        std::fill(out.begin(), out.end(), std::byte{});
    }
};

}  // namespace

void RequantizationError::add(double difference, double weight) {
    const std::scoped_lock lock(mutex_);
    difference_ += difference;
    weight_ += weight;
}

double RequantizationError::relative() const {
    const std::scoped_lock lock(mutex_);
    return weight_ > 0 ? std::sqrt(difference_ / weight_) : 0;
}

Component requantize(const Component& component, int weight_bits,
                     std::shared_ptr<RequantizationError> error) {
    if (weight_bits != kBits) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("weights can't be kept in {} bits without calibration; use {}, or "
                                "a file made by quantsparse-calibrate",
                                weight_bits, kBits),
                    "requantize");
    }
    auto checkpoint = std::make_shared<Checkpoint>(*component.checkpoint);
    for (const auto& block : component.network.blocks) {
        for (const auto& spec : linears_of(block)) {
            const std::string weight = spec.name + ".weight";
            const auto linear = std::make_shared<const PackedLinear>(
                checkpoint->at(weight, {spec.out_features, spec.in_features}), spec.out_features,
                spec.in_features, error);
            const auto put = [&](const char* part, DType dtype, std::vector<std::int64_t> shape,
                                 std::shared_ptr<const ComputedTensor> values) {
                checkpoint->put({spec.name + part, dtype, std::move(shape), {}, std::move(values)});
            };
            put(".codes", DType::u32, linear->codes_shape(), std::make_shared<Codes>(linear));
            put(".scale", DType::f32, {spec.out_features}, std::make_shared<Scales>(linear));
            if (!spec.bias) {
                put(".bias", DType::f32, {spec.out_features}, std::make_shared<Zeros>());
            }
            checkpoint->erase(weight);
        }
    }
    return {component.network, std::move(checkpoint)};
}

void requantize(ModelBundle& model, const std::vector<std::string>& roles, int weight_bits,
                const std::shared_ptr<RequantizationError>& error) {
    if (model.quantization.quantized()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("the model's weights are quantised already ({}); leave it out",
                                model.quantization.name()),
                    "requantize");
    }
    for (const auto& role : roles) {
        auto& component = model.components.at(role);
        component = requantize(component, weight_bits, error);
    }
    model.quantization.bits = {kBits, 8};
}

}  // namespace quantsparse::format
