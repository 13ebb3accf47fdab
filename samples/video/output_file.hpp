// A file that appears at its place only when it is complete: written beside it, then renamed. A
// link stays, and what it points to is written. Pipes and devices are written directly. Whatever is
// not finished is removed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace quantsparse::video {

class OutputFile {
  public:
    /// Creates the temporary file, so that an unwritable place is found before any work is done.
    /// "-" is the standard output. Throws Error(io).
    explicit OutputFile(const std::filesystem::path& destination);
    ~OutputFile();
    OutputFile(OutputFile&&) noexcept;
    OutputFile& operator=(OutputFile&&) = delete;

    void write(std::span<const std::uint8_t> bytes);
    void write(std::string_view text);
    /// Moves the write position, as container formats do to fill sizes in. Throws Error(io) for
    /// pipes.
    void seek(std::uint64_t position);
    std::uint64_t size() const { return size_; }
    /// Closes and renames; throws Error(io) when the last bytes don't fit.
    void finish();

    const std::filesystem::path& destination() const { return destination_; }

  private:
    [[noreturn]] void fail(int error_number) const;

    std::filesystem::path destination_;  ///< as it was given, for messages
    std::filesystem::path place_;        ///< behind all links
    std::filesystem::path temporary_;    ///< empty: written directly
    int descriptor_ = -1;
    std::uint64_t position_ = 0;
    std::uint64_t size_ = 0;
};

/// A name beside `destination` that nobody else uses, short whatever its own is.
std::filesystem::path temporary_beside(const std::filesystem::path& destination);

}  // namespace quantsparse::video
