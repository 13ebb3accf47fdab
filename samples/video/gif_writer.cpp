// GIF89a, looping for ever, one palette per frame. LZW as the format's appendix F has it.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "gif_palette.hpp"
#include "output_file.hpp"
#include "quantsparse/error.hpp"
#include "writers.hpp"

namespace quantsparse::video {
namespace {

constexpr int kMaxCodeBits = 12;
constexpr std::size_t kSubBlock = 255;

// Codes of growing width, least significant bit first, in sub-blocks of at most 255 bytes.
class CodeStream {
  public:
    void put(std::uint32_t code, int bits) {
        pending_ |= code << pending_bits_;
        pending_bits_ += bits;
        while (pending_bits_ >= 8) {
            bytes_.push_back(static_cast<std::uint8_t>(pending_));
            pending_ >>= 8;
            pending_bits_ -= 8;
        }
    }

    std::vector<std::uint8_t> finish() {
        if (pending_bits_ > 0) {
            bytes_.push_back(static_cast<std::uint8_t>(pending_));
        }
        std::vector<std::uint8_t> blocks;
        for (std::size_t offset = 0; offset < bytes_.size(); offset += kSubBlock) {
            const std::size_t count = std::min(kSubBlock, bytes_.size() - offset);
            blocks.push_back(static_cast<std::uint8_t>(count));
            blocks.insert(blocks.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset),
                          bytes_.begin() + static_cast<std::ptrdiff_t>(offset + count));
        }
        blocks.push_back(0);
        return blocks;
    }

  private:
    std::vector<std::uint8_t> bytes_;
    std::uint32_t pending_ = 0;
    int pending_bits_ = 0;
};

// The strings seen so far as a tree: a code's children are linked through their siblings.
struct Node {
    int first_child = -1;
    int next_sibling = -1;
    std::uint8_t value = 0;
};

std::vector<std::uint8_t> compress(std::span<const std::uint8_t> indices, int symbol_bits) {
    const int clear = 1 << symbol_bits;
    const int end = clear + 1;
    CodeStream stream;
    std::vector<Node> nodes;
    int bits = 0;
    const auto reset = [&] {
        nodes.assign(static_cast<std::size_t>(end) + 1, {});
        bits = symbol_bits + 1;
    };
    reset();
    stream.put(static_cast<std::uint32_t>(clear), bits);

    int current = indices[0];
    for (const std::uint8_t value : indices.subspan(1)) {
        int child = nodes[static_cast<std::size_t>(current)].first_child;
        while (child >= 0 && nodes[static_cast<std::size_t>(child)].value != value) {
            child = nodes[static_cast<std::size_t>(child)].next_sibling;
        }
        if (child >= 0) {
            current = child;
            continue;
        }
        stream.put(static_cast<std::uint32_t>(current), bits);
        const int added = static_cast<int>(nodes.size());
        if (added < 1 << kMaxCodeBits) {
            nodes.push_back({-1, nodes[static_cast<std::size_t>(current)].first_child, value});
            nodes[static_cast<std::size_t>(current)].first_child = added;
            if (added == 1 << bits) {
                ++bits;
            }
        } else {
            stream.put(static_cast<std::uint32_t>(clear), bits);
            reset();
        }
        current = value;
    }
    stream.put(static_cast<std::uint32_t>(current), bits);
    // The decoder adds one more string after that code, which may widen the next one.
    if (static_cast<int>(nodes.size()) == 1 << bits && bits < kMaxCodeBits) {
        ++bits;
    }
    stream.put(static_cast<std::uint32_t>(end), bits);
    return stream.finish();
}

class GifWriter final : public VideoWriter {
  public:
    explicit GifWriter(const std::filesystem::path& path) : file_(path) {}

    void begin(const ClipProperties& properties) override {
        properties_ = properties;
        if (properties.width > 65535 || properties.height > 65535) {
            throw Error(ErrorCode::invalid_argument,
                        "a gif is at most 65535 pixels wide and high: use mp4 or webm");
        }
        using namespace std::string_literals;
        std::string header = "GIF89a" + little_endian(properties.width) +
                             little_endian(properties.height) +
                             "\x70\0\0"s                                // no global palette
                             "\x21\xFF\x0BNETSCAPE2.0\x03\x01\0\0\0"s;  // repeat for ever
        if (!properties.comment.empty()) {
            header += "\x21\xFE";
            for (std::size_t offset = 0; offset < properties.comment.size(); offset += kSubBlock) {
                const std::string part = properties.comment.substr(offset, kSubBlock);
                header += static_cast<char>(part.size()) + part;
            }
            header += '\0';
        }
        file_.write(std::string_view(header));
    }

    void write_frame(std::span<const std::uint8_t> rgb) override {
        const IndexedFrame frame = quantize_colours(rgb);
        int palette_bits = 1;
        while (std::size_t{1} << palette_bits < frame.palette.size()) {
            ++palette_bits;
        }
        // Delays are whole centiseconds; rounding the frame's end keeps the clip's length.
        const auto end_time = [&](int frames) {
            return static_cast<int>(std::lround(frames * 100 / properties_.fps.per_second()));
        };
        const int delay = end_time(frame_ + 1) - end_time(frame_);
        ++frame_;

        using namespace std::string_literals;
        std::string block =
            "\x21\xF9\x04\x04"s + little_endian(delay) + "\0\0"s  // the frame's time
            + "\x2C\0\0\0\0"s + little_endian(properties_.width) +
            little_endian(properties_.height) + static_cast<char>(0x80 | (palette_bits - 1));
        for (std::size_t i = 0; i < std::size_t{1} << palette_bits; ++i) {
            const auto colour =
                i < frame.palette.size() ? frame.palette[i] : std::array<std::uint8_t, 3>{};
            block.append(colour.begin(), colour.end());
        }
        const int symbol_bits = std::max(2, palette_bits);
        block += static_cast<char>(symbol_bits);
        file_.write(std::string_view(block));
        file_.write(compress(frame.indices, symbol_bits));
    }

    void finish() override {
        file_.write(std::string_view(";"));
        file_.finish();
    }

  private:
    static std::string little_endian(int value) {
        return {static_cast<char>(value), static_cast<char>(value >> 8)};
    }

    OutputFile file_;
    ClipProperties properties_;
    int frame_ = 0;
};

}  // namespace

std::unique_ptr<VideoWriter> make_gif_writer(const std::filesystem::path& path) {
    return std::make_unique<GifWriter>(path);
}

}  // namespace quantsparse::video
