#include "velocity/trajectory.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

/// "QSTRAJ1", steps, values of a latent.
using Header = std::array<std::uint64_t, 3>;
constexpr std::uint64_t kMagic = 0x00'31'4a'41'52'54'53'51;

}  // namespace

TrajectoryWriter::TrajectoryWriter(std::filesystem::path file, int steps)
    : file_(std::move(file)),
      beside_(file_.string() + ".part"),
      out_(beside_, std::ios::binary),
      steps_(static_cast<std::uint64_t>(steps)) {}

TrajectoryWriter::~TrajectoryWriter() {
    std::error_code ignored;
    if (out_.is_open()) std::filesystem::remove(beside_, ignored);
}

void TrajectoryWriter::add(std::span<const float> values) {
    if (!std::exchange(begun_, true)) {
        const Header header = {kMagic, steps_, values.size()};
        out_.write(reinterpret_cast<const char*>(header.data()), sizeof header);
    }
    out_.write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size_bytes()));
    if (!out_) {
        throw Error(ErrorCode::io, fmt::format("can't write '{}': check the folder's permissions "
                                               "and free space",
                                               beside_.string()));
    }
}

void TrajectoryWriter::finish() {
    out_.close();
    std::filesystem::rename(beside_, file_);
}

Trajectory::Trajectory(const std::filesystem::path& file) : file_(file) {
    in_.open(file, std::ios::binary);
    Header header{};
    in_.read(reinterpret_cast<char*>(header.data()), sizeof header);
    constexpr std::uint64_t kMostSteps = 1000, kMostValues = std::uint64_t{1} << 32;
    steps_ = header[1];
    count_ = header[2];
    const bool sane = in_ && header[0] == kMagic && steps_ >= 1 && steps_ <= kMostSteps &&
                      count_ >= 1 && count_ <= kMostValues;
    if (!sane ||
        std::filesystem::file_size(file) != sizeof header + (2 * steps_ + 1) * count_ * 4) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' is no whole reference run: remove it, and it is made again",
                                file.string()));
    }
}

std::vector<float> Trajectory::read(std::uint64_t index) {
    std::vector<float> values(count_);
    in_.seekg(static_cast<std::streamoff>(sizeof(Header) + index * count_ * sizeof(float)));
    in_.read(reinterpret_cast<char*>(values.data()),
             static_cast<std::streamsize>(count_ * sizeof(float)));
    if (!in_) {
        throw Error(ErrorCode::io, fmt::format("can't read '{}' to its end", file_.string()));
    }
    return values;
}

}  // namespace quantsparse::bench
