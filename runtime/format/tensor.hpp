// Tensors as files hold them: element types, views, conversion to numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format {

enum class DType { f64, f32, f16, bf16, f8_e4m3, i64, i32, i16, i8, u8, u32, boolean };

/// The smallest piece of a format that stands for itself: one value, or the block of values that
/// share a scale.
struct ElementBlock {
    std::int64_t values = 1;
    std::int64_t bytes = 1;
};
ElementBlock block_of(DType dtype);
std::string_view name_of(DType dtype);  ///< the spelling of the safetensors header: "F32", "BF16"…

/// A tensor inside a mapped file; valid as long as the file object lives.
struct TensorView {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  ///< may lie at any address: copy elements out, never cast

    std::int64_t element_count() const;
    /// Elements first .. first + count - 1 as a vector; both multiples of the dtype's block.
    TensorView slice(std::int64_t first, std::int64_t count) const;
};

/// Widens F32, F16, BF16, F8_E4M3, F64 to fp32. Throws Error(bad_file) naming the tensor for other
/// dtypes.
std::vector<float> to_float(const TensorView& tensor);
void to_float(const TensorView& tensor, std::span<float> out);
std::vector<std::int32_t> to_int32(const TensorView& tensor);  ///< I32, I64, U8, I8, U32, BOOL

std::uint16_t half_from_float(float value);  ///< round to nearest even; overflow gives infinity
float float_from_half(std::uint16_t bits);

}  // namespace quantsparse::format
