#include "output_place.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <set>
#include <system_error>
#include <thread>

#include "quantsparse/error.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;
namespace {

constexpr int kMostLinks = 40;  // as the system's own limit

[[noreturn]] void refuse(const fs::path& name, const std::string& why) {
    throw Error(ErrorCode::io, fmt::format("can't write '{}': {}: choose another place with -o",
                                           name.string(), why));
}

/// 3 of "/dev/fd/3" and "/proc/self/fd/3"; -1 of all other names.
int own_descriptor(const fs::path& path) {
    const fs::path folder = path.parent_path();
    if (folder != "/dev/fd" && folder != "/proc/self/fd" &&
        folder != fmt::format("/proc/{}/fd", ::getpid())) {
        return -1;
    }
    const std::string name = path.filename();
    int number = -1;
    const auto result = std::from_chars(name.data(), name.data() + name.size(), number);
    return result.ec == std::errc() && result.ptr == name.data() + name.size() ? number : -1;
}

/// The file with its folder's links resolved, for comparison; what can't be resolved stays.
fs::path one_name(const fs::path& path) {
    std::error_code error;
    const fs::path named = path.has_filename() ? path : path.parent_path();
    const fs::path whole = fs::weakly_canonical(fs::absolute(named), error);
    return error ? named : whole;
}

}  // namespace

OutputPlace find_output_place(const fs::path& name) {
    if (name == "-") return {OutputPlace::Kind::descriptor, name, STDOUT_FILENO};
    fs::path path = name;
    std::error_code error;
    for (int links = 0;; ++links) {
        if (const int own = own_descriptor(path); own >= 0) {
            return {OutputPlace::Kind::descriptor, name, own};
        }
        const fs::file_status status = fs::symlink_status(path, error);
        if (!fs::status_known(status)) refuse(name, error.message());
        if (!fs::is_symlink(status)) break;
        if (links == kMostLinks) refuse(name, "too many links");
        const fs::path target = fs::read_symlink(path, error);
        if (error) refuse(name, error.message());
        path = path.parent_path() / target;  // an absolute target replaces all
    }
    const fs::file_status status = fs::status(path, error);
    using Kind = OutputPlace::Kind;
    const bool file =
        !fs::exists(status) || fs::is_regular_file(status) || fs::is_directory(status);
    const bool pipe = fs::is_fifo(status) || fs::is_socket(status);
    return {file ? Kind::file : pipe ? Kind::pipe : Kind::device, path};
}

void require_distinct(const std::vector<fs::path>& names) {
    std::set<std::string> seen;
    for (const fs::path& name : names) {
        const OutputPlace place = find_output_place(name);
        if (place.kind == OutputPlace::Kind::device) continue;
        const std::string key = place.kind == OutputPlace::Kind::descriptor
                                    ? fmt::format("descriptor {}", place.descriptor)
                                    : one_name(place.path).string();
        if (!seen.insert(key).second) {
            throw Error(
                ErrorCode::invalid_argument,
                fmt::format("output '{}' is given twice: give each its own name", name.string()));
        }
    }
}

void release_reader(const fs::path& pipe) {
    using namespace std::chrono_literals;
    for (int tries = 0; tries < 20; ++tries) {
        const int descriptor = ::open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (descriptor >= 0) ::close(descriptor);
        if (descriptor >= 0 || errno != ENXIO) return;  // ENXIO: nobody reads yet
        std::this_thread::sleep_for(10ms);
    }
}

}  // namespace quantsparse::video
