#include "picture_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include <stb_image.h>
#include "quantsparse/error.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;

std::vector<fs::path> pictures_in(const fs::path& folder) {
    std::vector<fs::path> files;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
        if (entry->path().extension() == ".png") {
            files.push_back(entry->path());
        }
    }
    if (error || files.empty()) {
        throw Error(ErrorCode::io,
                    fmt::format("'{}' is not a folder of png pictures: write one with "
                                "quantsparse-video -o DIR/",
                                folder.string()));
    }
    std::sort(files.begin(), files.end());
    return files;
}

PicturePixels read_picture(const fs::path& file) {
    PicturePixels pixels;
    int channels = 0;
    const std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> rgb(
        stbi_load(file.c_str(), &pixels.width, &pixels.height, &channels, 3), stbi_image_free);
    if (rgb == nullptr) {
        throw Error(ErrorCode::bad_file, fmt::format("can't read the picture '{}': {}",
                                                     file.string(), stbi_failure_reason()));
    }
    const std::size_t count = std::size_t{3} * static_cast<std::size_t>(pixels.width) *
                              static_cast<std::size_t>(pixels.height);
    pixels.rgb.assign(rgb.get(), rgb.get() + count);
    return pixels;
}

}  // namespace quantsparse::video
