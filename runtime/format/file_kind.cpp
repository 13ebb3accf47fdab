#include "format/file_kind.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>
#include <string_view>

#include "format/text.hpp"

namespace quantsparse::format {
namespace {

using namespace std::string_view_literals;

struct Magic {
    std::string_view start;
    const char* what;
};

constexpr const char* kTorch =
    ", as .pth, .pt and .bin files are: convert it once with quantsparse-calibrate";
constexpr const char* kPage =
    "is a web page, not the file itself: download it again, logged in where the site asks for it";

constexpr std::array kMagics = {
    Magic{"version https://git-lfs"sv,
          "is a git-lfs pointer, not the file itself: run 'git lfs pull' in the model's folder"},
    Magic{"GGUF"sv, "is a GGUF file"},
    Magic{"PK\3\4"sv, "is a zip archive"},
    Magic{"\x80\2"sv, "is a Python pickle"},
    Magic{"\x80\3"sv, "is a Python pickle"},
    Magic{"\x80\4"sv, "is a Python pickle"},
    Magic{"\x80\5"sv, "is a Python pickle"},
    Magic{"\x1F\x8B"sv, "is compressed with gzip: unpack it first"},
    Magic{"\x28\xB5\x2F\xFD"sv, "is compressed with zstd: unpack it first"},
    Magic{"\xFD"
          "7zXZ"sv,
          "is compressed with xz: unpack it first"},
    Magic{"BZh"sv, "is compressed with bzip2: unpack it first"},
    Magic{"7z\xBC\xAF\x27\x1C"sv, "is a 7z archive: unpack it first"},
    Magic{"Rar!"sv, "is a rar archive: unpack it first"},
    Magic{"\x93NUMPY"sv, "is a NumPy array"},
    Magic{"\x89HDF"sv, "is an HDF5 file, as of Keras or TensorFlow: get the safetensors file"},
    Magic{"\0\5\x16\7"sv, "holds macOS file attributes only: delete it, and copy the file itself"},
};

bool is_torch(std::string_view start) {
    return start == "PK\3\4"sv || start.front() == '\x80';
}

/// A page or message that a server sent in the place of the file.
std::string text_kind(std::string_view text) {
    const auto begin = text.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
    if (begin == std::string_view::npos) {
        return {};
    }
    std::string start(text.substr(begin, 16));
    std::transform(start.begin(), start.end(), start.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (start.starts_with("<!doctype") || start.starts_with("<html") ||
        start.starts_with("<?xml") || start.starts_with("<error")) {
        return kPage;
    }
    const auto shown = text.substr(begin, 48);
    const bool readable =
        shown.size() >= 8 && std::all_of(shown.begin(), shown.end(), [](unsigned char c) {
            return c >= 0x20 || c == '\n' || c == '\r' || c == '\t';
        });
    return readable ? fmt::format(
                          "is text that begins with '{}', not the file itself: download it "
                          "again",
                          printable(shown))
                    : std::string();
}

}  // namespace

bool all_zero(std::span<const std::byte> bytes) {
    constexpr std::size_t kPiece = 4096;
    static constexpr std::array<std::byte, kPiece> kZeros{};
    for (std::size_t at = 0; at < bytes.size(); at += kPiece) {
        const std::size_t count = std::min(kPiece, bytes.size() - at);
        if (std::memcmp(bytes.data() + at, kZeros.data(), count) != 0) {
            return false;
        }
    }
    return true;
}

std::string what_it_is(std::span<const std::byte> contents) {
    if (contents.empty()) {
        return "is empty (0 bytes): download it again";
    }
    const auto head = contents.first(std::min<std::size_t>(contents.size(), 65536));
    const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());
    for (const auto& magic : kMagics) {
        if (text.starts_with(magic.start)) {
            return std::string(magic.what) + (is_torch(magic.start) ? kTorch : "");
        }
    }
    if (all_zero(head)) {
        return "begins with zeros only, as an unfinished download does: download it again";
    }
    return text_kind(text.substr(0, 256));
}

}  // namespace quantsparse::format
