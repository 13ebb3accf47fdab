// GGUF: the files of llama.cpp, ComfyUI-GGUF and stable-diffusion.cpp, versions 2 and 3,
// memory-mapped. docs/networks/gguf.md has the layout. Files come from strangers: every count,
// length and offset is checked before it is used.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/tensor_source.hpp"

namespace quantsparse::format {

/// An array of the metadata, left in the file: a tokenizer's has hundreds of thousands of strings.
struct GgufArray {
    std::uint32_t type = 0;  ///< of the elements, as the file numbers them (gguf fact 45)
    std::uint64_t count = 0;
    std::span<const std::byte> bytes;  ///< of all elements, checked; at any address

    bool of_strings() const;
    /// Views into the file. Empty for an array of numbers.
    std::vector<std::string_view> strings() const;
    /// Integers and booleans exactly up to 2^53. Empty for an array of strings.
    std::vector<double> numbers() const;
};

class GgufFile final : public TensorSource {
  public:
    /// Throws Error(io), or Error(bad_file|unsupported) with one line that names the tensor or the
    /// field: anything of gguf fact 54, a type that is not read, a part of a split file.
    explicit GgufFile(const std::filesystem::path& path);
    ~GgufFile() override;

    const std::filesystem::path& path() const override;
    /// Strings as they are, numbers as text, booleans as "true" and "false"; no arrays.
    const std::map<std::string, std::string>& metadata() const override;
    const std::map<std::string, TensorView, std::less<>>& tensors() const override;
    bool has_ggml_shapes() const override { return true; }

    /// Of the metadata; nullptr when there's none of the name.
    const GgufArray* array(std::string_view key) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// Whether a file of these first bytes is a GGUF file, or one of the kinds before it, which
/// GgufFile refuses by name.
bool begins_like_gguf(std::span<const std::byte> bytes);

}  // namespace quantsparse::format
