// Safetensors: memory-mapped reading and streamed writing.
//
// Layout: 8-byte little-endian header length, JSON header, raw row-major little-endian tensors.
// Files come from strangers: every offset, length and shape is checked before it is used.
// This folder (runtime/format) includes neither Vulkan nor Torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format {

enum class DType { f64, f32, f16, bf16, f8_e4m3, i64, i32, i16, i8, u8, u32, boolean };

std::size_t size_of(DType dtype);
std::string_view name_of(DType dtype);  ///< the spelling of the safetensors header: "F32", "BF16"…

/// A tensor inside a mapped file; valid as long as the file object lives.
struct TensorView {
    std::string name;
    DType dtype = DType::f32;
    std::vector<std::int64_t> shape;
    std::span<const std::byte> bytes;  ///< may lie at any address: copy elements out, never cast

    std::int64_t element_count() const;
};

/// Widens F32, F16, BF16, F8_E4M3, F64 to fp32. Throws Error(bad_file) naming the tensor for other
/// dtypes.
std::vector<float> to_float(const TensorView& tensor);
void to_float(const TensorView& tensor, std::span<float> out);
std::vector<std::int32_t> to_int32(const TensorView& tensor);  ///< I32, I64, U8, I8, U32, BOOL

std::uint16_t half_from_float(float value);  ///< round to nearest even; overflow gives infinity
float float_from_half(std::uint16_t bits);

/// One .safetensors file, memory-mapped and validated on opening.
class SafetensorsFile {
  public:
    /// Throws Error(io) or Error(bad_file) with one line: truncated file, header past the end,
    /// bad JSON, unknown dtype, offsets past the end, overlapping ranges, size not matching shape.
    explicit SafetensorsFile(const std::filesystem::path& path);
    ~SafetensorsFile();
    SafetensorsFile(SafetensorsFile&&) noexcept;
    SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

    const std::filesystem::path& path() const;
    const std::map<std::string, std::string>& metadata() const;
    const std::map<std::string, TensorView, std::less<>>& tensors() const;
    const TensorView* find(std::string_view name) const;
    const TensorView& at(
        std::string_view name) const;  ///< throws Error(bad_file) naming file and tensor

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Writes a file beside its destination and renames it when finished, so a failure leaves nothing
/// behind. Declare all tensors first, then write them in declaration order (streams: one tensor in
/// memory at a time).
class SafetensorsWriter {
  public:
    explicit SafetensorsWriter(std::filesystem::path destination);
    ~SafetensorsWriter();  ///< removes the temporary file unless finish() was called
    SafetensorsWriter(const SafetensorsWriter&) = delete;

    void set_metadata(const std::string& key, const std::string& value);
    void declare(const std::string& name, DType dtype, const std::vector<std::int64_t>& shape);
    /// Appends to the tensor, which may come in several pieces.
    void write(const std::string& name, std::span<const std::byte> bytes);
    void finish();  ///< throws Error(io) when the disk is full or the rename fails

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace quantsparse::format
