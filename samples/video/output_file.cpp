#include "output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "interrupt.hpp"
#include "output_place.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;

fs::path temporary_beside(const fs::path& destination) {
    std::random_device random;
    return destination.parent_path() /
           fmt::format(".quantsparse-{}-{:08x}.part", ::getpid(), random());
}

OutputFile::OutputFile(const fs::path& destination) : destination_(destination) {
    const OutputPlace place = find_output_place(destination);
    place_ = place.path;
    if (destination == "-") destination_ = "standard output";
    std::error_code ignored;
    if (place.kind == OutputPlace::Kind::file && fs::is_directory(place_, ignored)) {
        throw Error(ErrorCode::io,
                    fmt::format("output '{}' is a folder: give a file name, or --format png for a "
                                "folder of pictures",
                                destination.string()));
    }
    if (place.kind == OutputPlace::Kind::descriptor) {
        descriptor_ = ::dup(place.descriptor);
    } else if (place.kind != OutputPlace::Kind::file) {
        descriptor_ = ::open(place_.c_str(), O_WRONLY | O_CLOEXEC);
    } else {
        temporary_ = temporary_beside(place_);
        descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }
    if (descriptor_ < 0) {
        const int error_number = errno;
        temporary_.clear();
        throw Error(ErrorCode::io, fmt::format("can't write '{}': {}: choose another place with -o",
                                               destination.string(), std::strerror(error_number)));
    }
}

OutputFile::~OutputFile() {
    if (descriptor_ >= 0) {
        ::close(descriptor_);
    }
    if (!temporary_.empty()) {
        ::unlink(temporary_.c_str());
    }
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : destination_(std::move(other.destination_)),
      place_(std::move(other.place_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      position_(other.position_),
      size_(other.size_) {}

void OutputFile::fail(int error_number) const {
    const char* advice = error_number == ENOSPC || error_number == EDQUOT
                             ? "free some space or choose another place with -o"
                         : error_number == EPIPE ? "the reader of the pipe has gone"
                                                 : "nothing was kept; check the disk";
    if (error_number == EINTR) {
        throw Error(ErrorCode::io, fmt::format("stopped while writing '{}': nothing was kept",
                                               destination_.string()));
    }
    throw Error(ErrorCode::io, fmt::format("writing '{}' failed: {}: {}", destination_.string(),
                                           std::strerror(error_number), advice));
}

void OutputFile::write(std::span<const std::uint8_t> bytes) {
    while (!bytes.empty()) {
        if (interrupted()) {  // a pipe's reader may never come back
            fail(EINTR);
        }
        const ::ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
        if (count < 0) {
            fail(errno);
        }
        bytes = bytes.subspan(static_cast<std::size_t>(count));
        position_ += static_cast<std::uint64_t>(count);
        size_ = std::max(size_, position_);
    }
}

void OutputFile::write(std::string_view text) {
    write(std::span(reinterpret_cast<const std::uint8_t*>(text.data()), text.size()));
}

void OutputFile::seek(std::uint64_t position) {
    if (::lseek(descriptor_, static_cast<::off_t>(position), SEEK_SET) < 0) {
        fail(errno);
    }
    position_ = position;
}

void OutputFile::finish() {
    if (::close(std::exchange(descriptor_, -1)) != 0) {
        fail(errno);
    }
    if (!temporary_.empty()) {
        if (::rename(temporary_.c_str(), place_.c_str()) != 0) {
            fail(errno);
        }
        temporary_.clear();
    }
}

}  // namespace quantsparse::video
