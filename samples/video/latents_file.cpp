#include "latents_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>

#include "quantsparse/error.hpp"

namespace quantsparse::video {
namespace {

static_assert(std::endian::native == std::endian::little, "both formats are little-endian");

std::filesystem::path checked(const std::filesystem::path& path) {
    if (path.extension() != ".npy" && path.extension() != ".safetensors") {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("latents '{}': use a name that ends in .npy or .safetensors",
                                path.string()));
    }
    return path;
}

// Both headers are padded with blanks so that the data starts at a multiple of 64.
std::string padded(std::string text, std::size_t prefix, bool newline) {
    const std::size_t length = prefix + text.size() + (newline ? 1 : 0);
    text.append((64 - length % 64) % 64, ' ');
    return newline ? text + '\n' : text;
}

std::string little_endian(std::uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) {
        out += static_cast<char>(value >> (8 * i));
    }
    return out;
}

}  // namespace

LatentsFile::LatentsFile(const std::filesystem::path& path)
    : file_(checked(path)), numpy_(path.extension() == ".npy") {}

void LatentsFile::write(std::span<const float> values, const std::vector<int>& shape) {
    if (numpy_) {
        const std::string header =
            padded(fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}",
                               fmt::join(shape, ", ")),
                   10, true);
        file_.write(std::string("\x93NUMPY\x01", 7) + '\0' + little_endian(header.size(), 2) +
                    header);
    } else {
        const std::string header = padded(
            fmt::format(R"({{"latents":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}})",
                        fmt::join(shape, ","), values.size_bytes()),
            8, false);
        file_.write(little_endian(header.size(), 8) + header);
    }
    file_.write(
        std::span(reinterpret_cast<const std::uint8_t*>(values.data()), values.size_bytes()));
    file_.finish();
}

}  // namespace quantsparse::video
