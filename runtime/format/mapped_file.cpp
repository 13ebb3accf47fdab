#include "format/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "quantsparse/error.hpp"

namespace quantsparse::format {

MappedFile::MappedFile(const std::filesystem::path& path) {
    const auto fail = [&](const char* what) {
        const int reason = errno;
        throw Error(ErrorCode::io, fmt::format("can't {} '{}': {}; check the path and permissions",
                                               what, path.string(), std::strerror(reason)));
    };
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        fail("open");
    }
    struct stat status {};
    if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(descriptor);
        throw Error(
            ErrorCode::io,
            fmt::format("'{}' is not a regular file; give the path of a file", path.string()));
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (size_ > 0) {
        void* mapping = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (mapping == MAP_FAILED) {
            const int reason = errno;
            ::close(descriptor);
            errno = reason;
            fail("map");
        }
        data_ = static_cast<const std::byte*>(mapping);
    }
    ::close(descriptor);
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) {
        ::munmap(const_cast<std::byte*>(data_), size_);
    }
}

std::vector<std::byte> read_small_file(const std::filesystem::path& path, std::size_t limit) {
    std::error_code failure;
    const auto size = std::filesystem::file_size(path, failure);
    std::ifstream stream(path, std::ios::binary);
    if (failure || !stream) {
        throw Error(ErrorCode::io,
                    fmt::format("can't read '{}': it does not exist or is not a readable file",
                                path.string()));
    }
    if (size > limit) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' has {} bytes where at most {} make sense; it is probably "
                                "another kind of file",
                                path.string(), size, limit));
    }
    std::vector<std::byte> bytes(size);
    stream.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size));
    if (static_cast<std::size_t>(stream.gcount()) != size) {
        throw Error(ErrorCode::io, fmt::format("reading '{}' stopped after {} of {} bytes",
                                               path.string(), stream.gcount(), size));
    }
    return bytes;
}

std::string read_small_text(const std::filesystem::path& path, std::size_t limit) {
    const auto bytes = read_small_file(path, limit);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace quantsparse::format
