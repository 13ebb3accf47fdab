// Tensors as files hold them: element types, views, conversion to numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format {

enum class DType {
    f64,
    f32,
    f16,
    bf16,
    f8_e4m3,
    f8_e5m2,
    i64,
    i32,
    i16,
    i8,
    u8,
    u32,
    boolean,
    // ggml's blocks of 32 or 256 values with a scale of their own (ggml_blocks.hpp).
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q8_0,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    iq4_nl,
    iq4_xs,
    other,  ///< of the format, and nothing here reads it
};

/// The smallest piece of a format that stands for itself: one value, or the block of values that
/// share a scale.
struct ElementBlock {
    std::int64_t values = 1;
    std::int64_t bytes = 1;
};
ElementBlock block_of(DType dtype);
std::string_view name_of(DType dtype);  ///< as the formats spell it: "F32", "BF16", "Q4_K"…

/// Values that no file holds as they are: scaled, decoded from codes, merged with an adapter. They
/// are computed whenever they are read, so that a model is open at once and lies in memory once.
/// Objects don't change; any thread may read.
class ComputedTensor {
  public:
    virtual ~ComputedTensor() = default;
    /// Elements from `first` on, row-major, of the view's dtype; as many as fill `out`.
    virtual void read(std::int64_t first, std::span<std::byte> out) const = 0;
    /// What the values take in the files they are computed from; 0: not known.
    virtual std::uint64_t stored_bytes() const { return 0; }
};

/// A tensor inside a mapped file, or computed from such; valid as long as the file object lives.
struct TensorView {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  ///< may lie at any address: copy elements out, never cast
    /// Where set, `bytes` is empty and `dtype` is what is computed.
    std::shared_ptr<const ComputedTensor> computed = nullptr;
    std::int64_t first = 0;  ///< of a slice of a computed tensor: where it begins

    std::int64_t element_count() const;
    std::uint64_t byte_count() const;  ///< by dtype and shape
    /// `count` elements from `first_element` on as a vector; both multiples of the dtype's block.
    TensorView slice(std::int64_t first_element, std::int64_t count) const;
};

bool is_floating(DType dtype);  ///< blocks are, too

/// The tensor's elements as they are; `out` has byte_count() bytes.
void read_bytes(const TensorView& tensor, std::span<std::byte> out);
/// Widens floating-point elements to fp32. Throws Error(bad_file) naming the tensor for others.
std::vector<float> to_float(const TensorView& tensor);
void to_float(const TensorView& tensor, std::span<float> out);
std::vector<std::int32_t> to_int32(const TensorView& tensor);  ///< I32, I64, U8, I8, U32, BOOL

std::uint16_t half_from_float(float value);  ///< round to nearest even; overflow gives infinity
float float_from_half(std::uint16_t bits);

}  // namespace quantsparse::format
