// Clips to files: one small interface, one file per format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "frame_rate.hpp"

namespace quantsparse::video {

enum class Container { mp4, webm, gif, y4m, png_folder, png };

/// What a clip is, known before its first frame.
struct ClipProperties {
    int width = 0;
    int height = 0;
    int frames = 0;
    FrameRate fps;
    int crf = -1;         ///< quality of mp4 and webm, 0 (best) to 51 or 63; negative: the default
    std::string comment;  ///< kept in the file: how the clip was made (UTF-8)
};

/// Created by make_writer(), then begin(), write_frame() for each frame, finish(). Nothing is left
/// behind when finish() was not reached. All functions throw Error.
class VideoWriter {
  public:
    virtual ~VideoWriter() = default;
    virtual void begin(const ClipProperties& properties) = 0;
    /// `rgb`: [height, width, 3], rows top to bottom.
    virtual void write_frame(std::span<const std::uint8_t> rgb) = 0;
    virtual void finish() = 0;
};

struct OutputTarget {
    std::filesystem::path path;  ///< "-": standard output
    Container container = Container::mp4;
};

/// The container by `format` (mp4, webm, gif, y4m, png), else by the extension; a trailing '/' or
/// an existing folder means a folder of png pictures, "-" means y4m. Throws
/// Error(invalid_argument), also for what needs a file (mp4, webm) where a pipe is.
OutputTarget resolve_output(const std::string& output, std::string_view format = {});

/// Opens the place for writing at once. Throws Error(io) when it can't be written,
/// Error(unsupported) when this build lacks the encoder.
std::unique_ptr<VideoWriter> make_writer(const OutputTarget& target);

/// One picture as a png file, atomically. `comment` may be empty.
void write_png(const std::filesystem::path& path, int width, int height,
               std::span<const std::uint8_t> rgb, const std::string& comment = {});

}  // namespace quantsparse::video
