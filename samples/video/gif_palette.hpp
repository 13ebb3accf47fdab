// 256 colours for one frame: exact when it has no more, else by median cut.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace quantsparse::video {

struct IndexedFrame {
    std::vector<std::array<std::uint8_t, 3>> palette;  ///< 1 to 256 colours
    std::vector<std::uint8_t> indices;                 ///< one per pixel
};

IndexedFrame quantize_colours(std::span<const std::uint8_t> rgb);

}  // namespace quantsparse::video
