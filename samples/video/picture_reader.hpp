// Reads png pictures and clips in the form of folders of them (quantsparse-video -o DIR/).
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "picture_metrics.hpp"

namespace quantsparse::video {

struct PicturePixels {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;  ///< [height, width, 3]

    PictureView view() const { return {width, height, rgb}; }
};

/// The png files of a folder in the order of their names. Throws Error(io) when there are none.
std::vector<std::filesystem::path> pictures_in(const std::filesystem::path& folder);

/// Throws Error(bad_file).
PicturePixels read_picture(const std::filesystem::path& file);

}  // namespace quantsparse::video
