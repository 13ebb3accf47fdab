#include "gif_palette.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

namespace quantsparse::video {
namespace {

constexpr std::size_t kMaxColours = 256;

struct Colour {
    std::array<std::uint8_t, 3> value;
    std::uint64_t count = 0;
};

std::uint32_t key_of(const std::uint8_t* pixel) {
    return static_cast<std::uint32_t>(pixel[0] << 16 | pixel[1] << 8 | pixel[2]);
}

// A range of the list of colours that will share one palette entry.
struct Box {
    std::size_t first, last;
    int axis = 0;        ///< the channel that varies most
    double spread = -1;  ///< sum of squared distances from the mean on that axis
};

void measure(Box& box, const std::vector<Colour>& colours) {
    box.spread = -1;
    for (int axis = 0; axis < 3; ++axis) {
        double count = 0, sum = 0, square = 0;
        for (std::size_t i = box.first; i < box.last; ++i) {
            const double weight = static_cast<double>(colours[i].count);
            const double value = colours[i].value[static_cast<std::size_t>(axis)];
            count += weight;
            sum += weight * value;
            square += weight * value * value;
        }
        const double spread = square - sum * sum / count;
        if (spread > box.spread) {
            box.spread = spread;
            box.axis = axis;
        }
    }
}

// Cuts at the mean of the widest axis; both halves keep at least one colour.
Box cut(Box& box, std::vector<Colour>& colours) {
    const auto axis = static_cast<std::size_t>(box.axis);
    double count = 0, sum = 0;
    for (std::size_t i = box.first; i < box.last; ++i) {
        count += static_cast<double>(colours[i].count);
        sum += static_cast<double>(colours[i].count) * colours[i].value[axis];
    }
    const double mean = sum / count;
    const auto begin = colours.begin();
    const auto middle = std::partition(begin + static_cast<std::ptrdiff_t>(box.first),
                                       begin + static_cast<std::ptrdiff_t>(box.last),
                                       [&](const Colour& c) { return c.value[axis] <= mean; });
    Box upper{static_cast<std::size_t>(middle - begin), box.last};
    box.last = upper.first;
    measure(box, colours);
    measure(upper, colours);
    return upper;
}

std::array<std::uint8_t, 3> mean_of(const Box& box, const std::vector<Colour>& colours) {
    std::array<std::uint64_t, 3> sum{};
    std::uint64_t count = 0;
    for (std::size_t i = box.first; i < box.last; ++i) {
        for (std::size_t c = 0; c < 3; ++c) {
            sum[c] += colours[i].count * colours[i].value[c];
        }
        count += colours[i].count;
    }
    std::array<std::uint8_t, 3> mean{};
    for (std::size_t c = 0; c < 3; ++c) {
        mean[c] = static_cast<std::uint8_t>((sum[c] + count / 2) / count);
    }
    return mean;
}

}  // namespace

IndexedFrame quantize_colours(std::span<const std::uint8_t> rgb) {
    const std::size_t pixels = rgb.size() / 3;
    std::vector<Colour> colours;
    std::unordered_map<std::uint32_t, std::uint32_t> position;  // colour → index in `colours`
    for (std::size_t i = 0; i < pixels; ++i) {
        const std::uint8_t* pixel = &rgb[3 * i];
        const auto [entry, added] =
            position.try_emplace(key_of(pixel), static_cast<std::uint32_t>(colours.size()));
        if (added) {
            colours.push_back({{pixel[0], pixel[1], pixel[2]}});
        }
        ++colours[entry->second].count;
    }

    std::vector<Box> boxes = {{0, colours.size()}};
    measure(boxes[0], colours);
    while (boxes.size() < kMaxColours) {
        const auto widest =
            std::max_element(boxes.begin(), boxes.end(),
                             [](const Box& a, const Box& b) { return a.spread < b.spread; });
        if (widest->last - widest->first < 2) {
            break;  // every box holds one colour: the palette is exact
        }
        boxes.push_back(cut(*widest, colours));
    }

    IndexedFrame frame;
    for (std::size_t b = 0; b < boxes.size(); ++b) {
        frame.palette.push_back(mean_of(boxes[b], colours));
        for (std::size_t i = boxes[b].first; i < boxes[b].last; ++i) {
            position[key_of(colours[i].value.data())] = static_cast<std::uint32_t>(b);
        }
    }
    frame.indices.resize(pixels);
    for (std::size_t i = 0; i < pixels; ++i) {
        frame.indices[i] = static_cast<std::uint8_t>(position[key_of(&rgb[3 * i])]);
    }
    return frame;
}

}  // namespace quantsparse::video
