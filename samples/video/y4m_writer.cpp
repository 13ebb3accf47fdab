// YUV4MPEG2, uncompressed 4:4:4: what pipes take. BT.601 at limited range, as readers assume.
#include <fmt/format.h>

#include <vector>

#include "output_file.hpp"
#include "writers.hpp"

namespace quantsparse::video {
namespace {

class Y4mWriter final : public VideoWriter {
  public:
    explicit Y4mWriter(const std::filesystem::path& path) : file_(path) {}

    void begin(const ClipProperties& properties) override {
        // No room for the parameters: readers give up on headers of more than about 100 bytes.
        file_.write(fmt::format("YUV4MPEG2 W{} H{} F{}:{} Ip A1:1 C444 XCOLORRANGE=LIMITED\n",
                                properties.width, properties.height, properties.fps.numerator,
                                properties.fps.denominator));
    }

    void write_frame(std::span<const std::uint8_t> rgb) override {
        const std::size_t pixels = rgb.size() / 3;
        planes_.resize(pixels * 3);
        for (std::size_t i = 0; i < pixels; ++i) {
            const double r = rgb[3 * i], g = rgb[3 * i + 1], b = rgb[3 * i + 2];
            const double luma = 0.299 * r + 0.587 * g + 0.114 * b;
            planes_[i] = to_byte(16 + luma * 219 / 255);
            planes_[pixels + i] = to_byte(128 + (b - luma) / 1.772 * 224 / 255);
            planes_[2 * pixels + i] = to_byte(128 + (r - luma) / 1.402 * 224 / 255);
        }
        file_.write(std::string_view("FRAME\n"));
        file_.write(planes_);
    }

    void finish() override { file_.finish(); }

  private:
    static std::uint8_t to_byte(double value) { return static_cast<std::uint8_t>(value + 0.5); }

    OutputFile file_;
    std::vector<std::uint8_t> planes_;  ///< Y, Cb, Cr of one frame
};

}  // namespace

std::unique_ptr<VideoWriter> make_y4m_writer(const std::filesystem::path& path) {
    return std::make_unique<Y4mWriter>(path);
}

}  // namespace quantsparse::video
