// Element types: sizes, names, and widening to fp32 and int32.
#include <fmt/format.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "format/ggml_blocks.hpp"
#include "format/tensor.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

struct Type {
    DType dtype;
    std::string_view name;
    ElementBlock block;
};

constexpr std::array<Type, 26> kTypes = {{
    {DType::f64, "F64", {1, 8}},
    {DType::f32, "F32", {1, 4}},
    {DType::f16, "F16", {1, 2}},
    {DType::bf16, "BF16", {1, 2}},
    {DType::f8_e4m3, "F8_E4M3", {1, 1}},
    {DType::f8_e5m2, "F8_E5M2", {1, 1}},
    {DType::i64, "I64", {1, 8}},
    {DType::i32, "I32", {1, 4}},
    {DType::i16, "I16", {1, 2}},
    {DType::i8, "I8", {1, 1}},
    {DType::u8, "U8", {1, 1}},
    {DType::u32, "U32", {1, 4}},
    {DType::boolean, "BOOL", {1, 1}},
    {DType::q4_0, "Q4_0", {32, 18}},  // gguf fact 48
    {DType::q4_1, "Q4_1", {32, 20}},
    {DType::q5_0, "Q5_0", {32, 22}},
    {DType::q5_1, "Q5_1", {32, 24}},
    {DType::q8_0, "Q8_0", {32, 34}},
    {DType::q2_k, "Q2_K", {256, 84}},
    {DType::q3_k, "Q3_K", {256, 110}},
    {DType::q4_k, "Q4_K", {256, 144}},
    {DType::q5_k, "Q5_K", {256, 176}},
    {DType::q6_k, "Q6_K", {256, 210}},
    {DType::iq4_nl, "IQ4_NL", {32, 18}},
    {DType::iq4_xs, "IQ4_XS", {256, 136}},
    {DType::other, "a type that is not read", {1, 1}},
}};

constexpr bool in_order() {
    for (std::size_t i = 0; i < kTypes.size(); ++i) {
        if (kTypes[i].dtype != static_cast<DType>(i)) {
            return false;
        }
    }
    return kTypes.back().dtype == DType::other;
}
static_assert(in_order());

// Data in a file may lie at any address, so elements are copied out, never cast in place.
template <typename T>
T load(const std::byte* position) {
    T value;
    std::memcpy(&value, position, sizeof(T));
    return value;
}

template <typename T, typename Out, typename Convert>
void convert_all(std::span<const std::byte> bytes, std::span<Out> out, Convert convert) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = convert(load<T>(bytes.data() + i * sizeof(T)));
    }
}

/// The 256 values of F8_E4M3, the "fn" kind (quantised-checkpoints fact 60): bias 7, no infinity,
/// NaN where exponent and mantissa are all ones.
std::array<float, 256> f8_e4m3_values() {
    std::array<float, 256> values{};
    for (int bits = 0; bits < 128; ++bits) {
        const int exponent = bits >> 3;
        const int mantissa = bits & 7;
        const float magnitude = exponent == 0
                                    ? std::ldexp(static_cast<float>(mantissa), -9)
                                    : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
        values[static_cast<std::size_t>(bits)] = magnitude;
        values[static_cast<std::size_t>(bits + 128)] = -magnitude;
    }
    values[0x7F] = values[0xFF] = std::numeric_limits<float>::quiet_NaN();
    return values;
}

}  // namespace

ElementBlock block_of(DType dtype) {
    return kTypes.at(static_cast<std::size_t>(dtype)).block;
}

std::string_view name_of(DType dtype) {
    return kTypes.at(static_cast<std::size_t>(dtype)).name;
}

std::int64_t TensorView::element_count() const {
    std::int64_t count = 1;
    for (const auto dimension : shape) {
        count *= dimension;
    }
    return count;
}

std::uint64_t TensorView::byte_count() const {
    const ElementBlock block = block_of(dtype);
    return static_cast<std::uint64_t>(element_count() / block.values * block.bytes);
}

TensorView TensorView::slice(std::int64_t first_element, std::int64_t count) const {
    TensorView part{name, dtype, {count}, {}, computed, first + first_element};
    if (!computed) {
        const ElementBlock block = block_of(dtype);
        part.bytes =
            bytes.subspan(static_cast<std::size_t>(first_element / block.values * block.bytes),
                          static_cast<std::size_t>(count / block.values * block.bytes));
    }
    return part;
}

void read_bytes(const TensorView& tensor, std::span<std::byte> out) {
    if (tensor.computed) {
        tensor.computed->read(tensor.first, out);
    } else {
        std::copy(tensor.bytes.begin(), tensor.bytes.end(), out.begin());
    }
}

bool is_floating(DType dtype) {
    if (is_block_type(dtype)) {
        return true;
    }
    switch (dtype) {
        case DType::f64:
        case DType::f32:
        case DType::f16:
        case DType::bf16:
        case DType::f8_e4m3:
        case DType::f8_e5m2:
            return true;
        default:
            return false;
    }
}

std::uint16_t half_from_float(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
    const std::uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) {
        return static_cast<std::uint16_t>(sign | 0x7E00);
    }
    if (magnitude >= 0x477FF000) {  // 65520 and above round to infinity
        return static_cast<std::uint16_t>(sign | 0x7C00);
    }
    if (magnitude < 0x38800000) {  // below 2^-14: subnormal, in units of 2^-24, half to even
        const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;
        return static_cast<std::uint16_t>(sign |
                                          static_cast<std::uint16_t>(std::nearbyint(scaled)));
    }
    const std::uint32_t rebased = magnitude - (112U << 23);
    const std::uint32_t rounded = rebased + 0xFFF + (rebased >> 13 & 1);
    return static_cast<std::uint16_t>(sign | rounded >> 13);
}

float float_from_half(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
    const std::uint32_t exponent = bits >> 10 & 31;
    const std::uint32_t mantissa = bits & 0x3FF;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * (1.0f / 16777216.0f);
        return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
    }
    const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
    return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

void to_float(const TensorView& tensor, std::span<float> out) {
    if (static_cast<std::int64_t>(out.size()) != tensor.element_count()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("tensor '{}' has {} elements where {} were expected",
                                printable(tensor.name), tensor.element_count(), out.size()));
    }
    if (tensor.computed && tensor.dtype != DType::f32) {
        std::vector<std::byte> values(tensor.byte_count());
        read_bytes(tensor, values);
        return to_float({tensor.name, tensor.dtype, tensor.shape, values}, out);
    }
    switch (tensor.dtype) {
        case DType::f32:
            return read_bytes(tensor, std::as_writable_bytes(out));
        case DType::f64:
            return convert_all<double>(tensor.bytes, out,
                                       [](double v) { return static_cast<float>(v); });
        case DType::f16:
            return convert_all<std::uint16_t>(tensor.bytes, out, float_from_half);
        case DType::bf16:
            return convert_all<std::uint16_t>(tensor.bytes, out, [](std::uint16_t v) {
                return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16);
            });
        case DType::f8_e4m3:
            return convert_all<std::uint8_t>(tensor.bytes, out, [](std::uint8_t v) {
                static const auto kValues = f8_e4m3_values();
                return kValues[v];
            });
        case DType::f8_e5m2:  // the upper byte of a half
            return convert_all<std::uint8_t>(tensor.bytes, out, [](std::uint8_t v) {
                return float_from_half(static_cast<std::uint16_t>(v << 8));
            });
        default:
            if (is_block_type(tensor.dtype)) {
                return widen_blocks(tensor.dtype, tensor.bytes, out);
            }
            throw Error(ErrorCode::bad_file,
                        fmt::format("tensor '{}' has dtype {} where floating point was expected",
                                    printable(tensor.name), name_of(tensor.dtype)));
    }
}

std::vector<float> to_float(const TensorView& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.element_count()));
    to_float(tensor, values);
    return values;
}

std::vector<std::int32_t> to_int32(const TensorView& tensor) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.element_count()));
    const std::span<std::int32_t> out(values);
    const auto narrow = [&](std::int64_t v) {
        if (v < std::numeric_limits<std::int32_t>::min() ||
            v > std::numeric_limits<std::int32_t>::max()) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("tensor '{}' holds {}, too large for int32",
                                    printable(tensor.name), v));
        }
        return static_cast<std::int32_t>(v);
    };
    switch (tensor.dtype) {
        case DType::i32:
            convert_all<std::int32_t>(tensor.bytes, out, [](std::int32_t v) { return v; });
            break;
        case DType::i64:
            convert_all<std::int64_t>(tensor.bytes, out, narrow);
            break;
        case DType::u32:
            convert_all<std::uint32_t>(tensor.bytes, out, narrow);
            break;
        case DType::i16:
            convert_all<std::int16_t>(tensor.bytes, out, [](std::int16_t v) { return v; });
            break;
        case DType::i8:
            convert_all<std::int8_t>(tensor.bytes, out, [](std::int8_t v) { return v; });
            break;
        case DType::u8:
        case DType::boolean:
            convert_all<std::uint8_t>(tensor.bytes, out, [](std::uint8_t v) { return v; });
            break;
        default:
            throw Error(ErrorCode::bad_file,
                        fmt::format("tensor '{}' has dtype {} where integers were expected",
                                    printable(tensor.name), name_of(tensor.dtype)));
    }
    return values;
}

}  // namespace quantsparse::format
