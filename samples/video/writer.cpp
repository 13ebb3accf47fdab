#include "writer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "output_place.hpp"
#include "quantsparse/error.hpp"
#include "writers.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;
namespace {

struct NamedContainer {
    std::string_view name;
    Container container;
};

constexpr std::array<NamedContainer, 5> kContainers = {{{"mp4", Container::mp4},
                                                        {"webm", Container::webm},
                                                        {"gif", Container::gif},
                                                        {"y4m", Container::y4m},
                                                        {"png", Container::png}}};

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return text;
}

// mp4 and webm go back to fill in sizes.
void require_seekable(const OutputTarget& target, const std::string& output,
                      const std::string& format) {
    if (target.container != Container::mp4 && target.container != Container::webm) return;
    const OutputPlace place = find_output_place(target.path);
    const bool pipe = place.kind == OutputPlace::Kind::pipe;
    if (pipe) release_reader(place.path);
    if (pipe || place.kind == OutputPlace::Kind::descriptor) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("output '{}' is a pipe or an open file: {} needs one by name, y4m "
                                "and gif do not",
                                output, format));
    }
}

}  // namespace

OutputTarget resolve_output(const std::string& output, std::string_view format) {
    if (output.empty()) {
        throw Error(ErrorCode::invalid_argument, "the output name is empty: use -o FILE");
    }
    const fs::path path(output);
    std::error_code ignored;
    const bool folder = output.back() == '/' || (output != "-" && fs::is_directory(path, ignored));
    std::string name(format);
    if (name.empty()) {
        const std::string extension = lower(path.extension().string());
        name = output == "-"       ? "y4m"
               : folder            ? "png"
               : extension.empty() ? ""
                                   : extension.substr(1);
    }
    const auto found = std::find_if(kContainers.begin(), kContainers.end(),
                                    [&](const NamedContainer& c) { return c.name == name; });
    if (found == kContainers.end()) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("output '{}': no format '{}': use .mp4, .webm, .gif, .y4m, .png, or "
                        "DIR/ for a folder of pictures",
                        output, name));
    }
    OutputTarget target{path, found->container};
    if (output == "-" && target.container != Container::y4m) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' can't go to the standard output: only y4m can", name));
    }
    if (target.container == Container::png && lower(path.extension().string()) != ".png") {
        target.container = Container::png_folder;
    } else if (folder) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("output '{}' is a folder: give a file name", output));
    }
    require_seekable(target, output, name);
    return target;
}

std::unique_ptr<VideoWriter> make_writer(const OutputTarget& target) {
    switch (target.container) {
        case Container::gif:
            return make_gif_writer(target.path);
        case Container::y4m:
            return make_y4m_writer(target.path);
        case Container::png:
            return make_png_writer(target.path);
        case Container::png_folder:
            return make_png_folder_writer(target.path);
        case Container::mp4:
        case Container::webm:
            break;
    }
#ifdef QUANTSPARSE_HAVE_LIBAV
    return make_libav_writer(target.path, target.container);
#else
    throw Error(ErrorCode::unsupported,
                "this build can't write mp4 or webm (it lacks libav): use .gif, .y4m or DIR/ for "
                "pictures");
#endif
}

}  // namespace quantsparse::video
