// A png picture, or a folder of them: frame_00000.png, frame_00001.png, …
#include <fmt/format.h>

#include <array>
#include <regex>
#include <system_error>
#include <vector>

#include <stb_image_write.h>
#include "output_file.hpp"
#include "output_place.hpp"
#include "quantsparse/error.hpp"
#include "writers.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;
namespace {

void append_big_endian(std::vector<std::uint8_t>& out, std::uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
        out.push_back(static_cast<std::uint8_t>(value >> shift));
    }
}

std::uint32_t crc32(std::span<const std::uint8_t> bytes) {
    std::uint32_t crc = 0xFFFFFFFF;
    for (const std::uint8_t byte : bytes) {
        crc ^= byte;
        for (int bit = 0; bit < 8; ++bit) {
            crc = (crc & 1) != 0 ? (crc >> 1) ^ 0xEDB88320 : crc >> 1;
        }
    }
    return ~crc;
}

// An uncompressed UTF-8 text chunk: length, "iTXt", keyword, flags, text, checksum.
std::vector<std::uint8_t> text_chunk(const std::string& comment) {
    using namespace std::string_view_literals;
    std::vector<std::uint8_t> body;
    for (const std::string_view part :
         {"iTXt"sv, "parameters\0"sv, "\0\0"sv, "\0"sv, "\0"sv, std::string_view(comment)}) {
        body.insert(body.end(), part.begin(), part.end());
    }
    std::vector<std::uint8_t> chunk;
    append_big_endian(chunk, static_cast<std::uint32_t>(body.size() - 4));
    chunk.insert(chunk.end(), body.begin(), body.end());
    append_big_endian(chunk, crc32(body));
    return chunk;
}

std::vector<std::uint8_t> encode_png(int width, int height, std::span<const std::uint8_t> rgb,
                                     const std::string& comment) {
    std::vector<std::uint8_t> png;
    const auto append = [](void* context, void* data, int size) {
        auto* bytes = static_cast<const std::uint8_t*>(data);
        auto& out = *static_cast<std::vector<std::uint8_t>*>(context);
        out.insert(out.end(), bytes, bytes + size);
    };
    if (stbi_write_png_to_func(append, &png, width, height, 3, rgb.data(), width * 3) == 0) {
        throw Error(ErrorCode::io, "encoding a png picture failed: out of memory");
    }
    if (!comment.empty()) {
        constexpr std::ptrdiff_t kAfterHeader = 8 + 25;  // signature and IHDR
        const std::vector<std::uint8_t> chunk = text_chunk(comment);
        png.insert(png.begin() + kAfterHeader, chunk.begin(), chunk.end());
    }
    return png;
}

class PngWriter final : public VideoWriter {
  public:
    explicit PngWriter(const fs::path& path) : file_(path) {}

    void begin(const ClipProperties& properties) override {
        properties_ = properties;
        if (properties.frames != 1) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("output '{}': a .png holds one picture, not {} frames: use "
                                    "--frames 1, or DIR/ for a folder of pictures",
                                    file_.destination().string(), properties.frames));
        }
    }

    void write_frame(std::span<const std::uint8_t> rgb) override {
        file_.write(encode_png(properties_.width, properties_.height, rgb, properties_.comment));
    }

    void finish() override { file_.finish(); }

  private:
    OutputFile file_;
    ClipProperties properties_;
};

// Pictures go to a folder beside the destination, which takes its place at the end.
class PngFolderWriter final : public VideoWriter {
  public:
    explicit PngFolderWriter(const fs::path& folder)
        : destination_(
              find_output_place(folder.has_filename() ? folder : folder.parent_path()).path),
          temporary_(temporary_beside(destination_)) {
        std::error_code error;
        if (fs::exists(destination_, error)) {
            check_replaceable();
        }
        fs::create_directory(temporary_, error);
        if (error) {
            temporary_.clear();
            throw Error(ErrorCode::io,
                        fmt::format("can't write '{}': {}: choose another place with -o",
                                    destination_.string(), error.message()));
        }
    }

    ~PngFolderWriter() override {
        if (!temporary_.empty()) {
            std::error_code ignored;
            fs::remove_all(temporary_, ignored);
        }
    }

    void begin(const ClipProperties& properties) override { properties_ = properties; }

    void write_frame(std::span<const std::uint8_t> rgb) override {
        write_png(temporary_ / fmt::format("frame_{:05}.png", frame_++), properties_.width,
                  properties_.height, rgb, properties_.comment);
    }

    void finish() override {
        std::error_code error;
        if (fs::exists(destination_, error)) {
            check_replaceable();
            fs::remove_all(destination_, error);
        }
        fs::rename(temporary_, destination_, error);
        if (error) {
            throw Error(ErrorCode::io, fmt::format("can't write '{}': {}", destination_.string(),
                                                   error.message()));
        }
        temporary_.clear();
    }

  private:
    // Only pictures of an earlier run may be replaced.
    void check_replaceable() const {
        static const std::regex ours("frame_[0-9]{5,}\\.png");
        std::error_code error;
        for (fs::directory_iterator entry(destination_, error), end; !error && entry != end;
             entry.increment(error)) {
            if (!std::regex_match(entry->path().filename().string(), ours)) {
                throw Error(ErrorCode::io,
                            fmt::format("folder '{}' holds other files ('{}'): choose an empty or "
                                        "new one",
                                        destination_.string(), entry->path().filename().string()));
            }
        }
        if (error) {
            throw Error(ErrorCode::io,
                        fmt::format("can't write pictures to '{}': {}: choose another place with "
                                    "-o",
                                    destination_.string(), error.message()));
        }
    }

    fs::path destination_;
    fs::path temporary_;
    ClipProperties properties_;
    int frame_ = 0;
};

}  // namespace

void write_png(const fs::path& path, int width, int height, std::span<const std::uint8_t> rgb,
               const std::string& comment) {
    OutputFile file(path);
    file.write(encode_png(width, height, rgb, comment));
    file.finish();
}

std::unique_ptr<VideoWriter> make_png_writer(const fs::path& path) {
    return std::make_unique<PngWriter>(path);
}

std::unique_ptr<VideoWriter> make_png_folder_writer(const fs::path& folder) {
    return std::make_unique<PngFolderWriter>(folder);
}

}  // namespace quantsparse::video
