// Tells colour, background, shape and motion of a clip of the bundled model's world from its frames
// alone. The same measurements as samples/train/checker.py, which the training uses.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace quantsparse::bench {

/// What a clip shows, or what a prompt asks for; "-" where nothing can be told.
struct SceneWords {
    std::string colour = "-";
    std::string background = "-";
    std::string shape = "-";
    std::string motion = "-";

    bool complete() const {
        return colour != "-" && background != "-" && shape != "-" && motion != "-";
    }
};

/// The words of a prompt in the plain form of samples/train/captions.py.
SceneWords words_of_prompt(const std::string& prompt);

/// `rgb`: [frames, height, width, 3].
SceneWords check_clip(std::span<const std::uint8_t> rgb, int frames, int height, int width);

}  // namespace quantsparse::bench
