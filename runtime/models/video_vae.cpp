#include "models/video_vae.hpp"

#include <algorithm>

namespace quantsparse::models {

void JoinedClip::add(const Clip& part) {
    parts_.push_back(part);
}

Clip JoinedClip::take() {
    if (parts_.size() < 2) return parts_.empty() ? Clip{} : std::move(parts_.front());
    Clip all{parts_.front().channels, 0, parts_.front().height, parts_.front().width, {}};
    for (const Clip& part : parts_) all.frames += part.frames;
    const std::size_t plane =
        static_cast<std::size_t>(all.height) * static_cast<std::size_t>(all.width);
    for (int c = 0; c < all.channels; ++c) {
        for (const Clip& part : parts_) {
            const std::size_t size = static_cast<std::size_t>(part.frames) * plane;
            const auto from = part.values.begin() +
                              static_cast<std::ptrdiff_t>(static_cast<std::size_t>(c) * size);
            all.values.insert(all.values.end(), from, from + static_cast<std::ptrdiff_t>(size));
        }
    }
    return all;
}

}  // namespace quantsparse::models
