#include "format/encoded_weight.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "format/bit_packing.hpp"
#include "format/convrot.hpp"
#include "format/model_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {

/// The 8-bit codes of a row of integers.
void EncodedWeight::codes(int row, std::span<std::int8_t> out) const {
    const auto at = [](const TensorView& view, int index_row, int width) {
        return view.bytes.data() +
               static_cast<std::ptrdiff_t>(index_row) * static_cast<std::ptrdiff_t>(width);
    };
    if (!four_bits) {
        std::transform(at(weight, row, columns), at(weight, row, columns) + columns, out.begin(),
                       [](std::byte code) { return static_cast<std::int8_t>(code); });
        return;
    }
    const std::byte* packed = at(weight, row, columns / 2);
    const auto s_rel =
        to_float(relative.slice(std::int64_t{row} * (columns / group), columns / group));
    for (int c = 0; c < columns; ++c) {
        const int shift = c % 2 * 4;  // the low half comes first
        const auto index = std::to_integer<std::size_t>(packed[c / 2] >> shift & std::byte{15});
        const float code =
            std::nearbyint(levels[index] * s_rel[static_cast<std::size_t>(c / group)]);
        out[static_cast<std::size_t>(c)] =
            static_cast<std::int8_t>(std::clamp(code, -127.0f, 127.0f));
    }
}

/// A row of the weight in the original basis.
void EncodedWeight::values(int row, std::span<float> out) const {
    if (integers()) {
        std::vector<std::int8_t> row_codes(out.size());
        codes(row, row_codes);
        std::copy(row_codes.begin(), row_codes.end(), out.begin());
    } else {
        to_float(weight.slice(std::int64_t{row} * columns, columns), out);
    }
    const auto scales =
        to_float(scale.slice(std::int64_t{row / tile_rows} * scale_columns, scale_columns));
    for (int c = 0; c < columns; ++c) {
        auto& value = out[static_cast<std::size_t>(c)];
        value *= scales[static_cast<std::size_t>(c / tile_columns)];
        if (!correction.empty()) {
            value += correction[static_cast<std::size_t>(c / group * rows + row)];
        }
    }
    if (rotation != 0) {
        apply_convrot(out, rotation);
    }
}

namespace {

/// The weight as fp32.
class DecodedWeight final : public ComputedTensor {
  public:
    explicit DecodedWeight(std::shared_ptr<const EncodedWeight> weight)
        : weight_(std::move(weight)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        const std::int64_t width = weight_->columns;
        std::vector<float> row(static_cast<std::size_t>(width));
        while (!out.empty()) {
            weight_->values(static_cast<int>(first / width), row);
            const auto part =
                std::as_bytes(std::span(row).subspan(static_cast<std::size_t>(first % width)));
            const std::size_t count = std::min(part.size(), out.size());
            std::copy_n(part.begin(), count, out.begin());
            out = out.subspan(count);
            first += static_cast<std::int64_t>(count / sizeof(float));
        }
    }
    std::uint64_t stored_bytes() const override {
        return weight_->weight.bytes.size() + weight_->relative.bytes.size() +
               weight_->scale.bytes.size();
    }

  private:
    std::shared_ptr<const EncodedWeight> weight_;
};

/// The packed words of a native weight, in the basis of the Sylvester rotation.
class NativeCodes final : public ComputedTensor {
  public:
    explicit NativeCodes(std::shared_ptr<const EncodedWeight> weight)
        : weight_(std::move(weight)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        const auto k = static_cast<std::size_t>(weight_->columns);
        std::vector<std::int8_t> codes(static_cast<std::size_t>(weight_->rows) * k);
        std::vector<std::int8_t> row(k);
        for (int n = 0; n < weight_->rows; ++n) {
            const auto place = std::span(codes).subspan(static_cast<std::size_t>(n) * k, k);
            weight_->codes(n, weight_->rotation != 0 ? std::span(row) : place);
            if (weight_->rotation != 0) {
                rotate(row, place);
            }
        }
        const auto words = pack_weight_codes(codes, weight_->rows, weight_->columns, 8);
        const auto bytes =
            std::as_bytes(std::span(words)).subspan(static_cast<std::size_t>(first) * 4);
        std::copy_n(bytes.begin(), out.size(), out.begin());
    }

  private:
    void rotate(std::span<const std::int8_t> row, std::span<std::int8_t> out) const {
        const auto group = static_cast<std::size_t>(weight_->rotation);
        for (std::size_t c = 0; c < row.size(); ++c) {
            const std::size_t inside = c % group;
            if (row[c] == -128 && convrot_sign(inside) < 0) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("tensor '{}' holds the code -128, which has no opposite; "
                                        "quantise the model again with codes of at least -127",
                                        printable(weight_->weight.name)));
            }
            out[c - inside + convrot_place(inside)] =
                static_cast<std::int8_t>(convrot_sign(inside) * row[c]);
        }
    }
    std::shared_ptr<const EncodedWeight> weight_;
};

/// One scale per output channel.
class RowScales final : public ComputedTensor {
  public:
    explicit RowScales(std::shared_ptr<const EncodedWeight> weight) : weight_(std::move(weight)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        const auto scales = to_float(weight_->scale);
        std::vector<float> values(out.size() / sizeof(float));
        for (std::size_t i = 0; i < values.size(); ++i) {
            const auto row = static_cast<std::size_t>(first) + i;
            values[i] = scales[row / static_cast<std::size_t>(weight_->tile_rows)];
        }
        std::copy_n(std::as_bytes(std::span(values)).begin(), out.size(), out.begin());
    }

  private:
    std::shared_ptr<const EncodedWeight> weight_;
};

/// The signs of the Sylvester rotation.
class ConvRotSigns final : public ComputedTensor {
  public:
    explicit ConvRotSigns(int group) : group_(static_cast<std::size_t>(group)) {}
    void read(std::int64_t first, std::span<std::byte> out) const override {
        std::vector<float> values(out.size() / sizeof(float));
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] =
                static_cast<float>(convrot_sign((static_cast<std::size_t>(first) + i) % group_));
        }
        std::copy_n(std::as_bytes(std::span(values)).begin(), out.size(), out.begin());
    }

  private:
    std::size_t group_;
};

}  // namespace

void put_decoded(Checkpoint& checkpoint, const std::shared_ptr<const EncodedWeight>& encoded) {
    const auto computed = [](std::string name, DType dtype, std::vector<std::int64_t> shape,
                             std::shared_ptr<const ComputedTensor> values) {
        return TensorView{std::move(name), dtype, std::move(shape), {}, std::move(values), 0};
    };
    auto shape = encoded->weight.shape;
    if (encoded->four_bits) {
        shape.back() *= 2;
    }
    checkpoint.put(computed(encoded->name + ".weight", DType::f32, std::move(shape),
                            std::make_shared<DecodedWeight>(encoded)));
    if (!encoded->native()) {
        return;
    }
    const std::int64_t n = encoded->rows;
    const std::int64_t k = encoded->columns;
    checkpoint.put(computed(encoded->name + ".codes", DType::u32,
                            codes_shape(encoded->rows, encoded->columns, 8),
                            std::make_shared<NativeCodes>(encoded)));
    checkpoint.put(
        computed(encoded->name + ".scale", DType::f32, {n}, std::make_shared<RowScales>(encoded)));
    if (encoded->rotation != 0) {
        checkpoint.put(computed(encoded->name + ".rotation_signs", DType::f32, {k},
                                std::make_shared<ConvRotSigns>(encoded->rotation)));
    }
    checkpoint.set_native(encoded->name, encoded->rotation);
}

}  // namespace quantsparse::format
