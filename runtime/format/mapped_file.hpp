// A whole file mapped read-only, and a whole small file read into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace quantsparse::format {

/// Maps a file for reading; the mapping lives as long as the object. Throws Error(io).
class MappedFile {
  public:
    explicit MappedFile(const std::filesystem::path& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::byte> bytes() const { return {data_, size_}; }

  private:
    const std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

/// Reads a file of at most `limit` bytes. Throws Error(io), or Error(bad_file) when it is larger.
std::vector<std::byte> read_small_file(const std::filesystem::path& path, std::size_t limit);
std::string read_small_text(const std::filesystem::path& path, std::size_t limit);

}  // namespace quantsparse::format
