// Safetensors: memory-mapped reading and streamed writing.
//
// Layout: 8-byte little-endian header length, JSON header, raw row-major little-endian tensors.
// Files come from strangers: every offset, length and shape is checked before it is used.
// This folder (runtime/format) includes neither Vulkan nor Torch.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "format/tensor_source.hpp"

namespace quantsparse::format {

/// One .safetensors file, memory-mapped and validated on opening.
class SafetensorsFile final : public TensorSource {
  public:
    /// Throws Error(io) or Error(bad_file) with one line: truncated file, header past the end,
    /// bad JSON, unknown dtype, offsets past the end, overlapping ranges, size not matching shape.
    explicit SafetensorsFile(const std::filesystem::path& path);
    ~SafetensorsFile() override;
    SafetensorsFile(SafetensorsFile&&) noexcept;
    SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

    const std::filesystem::path& path() const override;
    const std::map<std::string, std::string>& metadata() const override;
    const std::map<std::string, TensorView, std::less<>>& tensors() const override;

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
