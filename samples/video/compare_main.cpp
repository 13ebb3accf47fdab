// quantsparse-compare: how far two clips lie apart, both as folders of png pictures
// (quantsparse-video -o DIR/).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "picture_metrics.hpp"
#include "picture_reader.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::video {
namespace fs = std::filesystem;
namespace {

struct Comparison {
    double squared_error = 0;
    double values = 0;
    double similarity = 0;  // sums over frames
    double gradient_deviation = 0;
    int largest = 0;
    double worst_psnr = std::numeric_limits<double>::infinity();
    std::string worst_frame = "none";
};

void add_frame(Comparison& total, const fs::path& first, const fs::path& second) {
    const PicturePixels a = read_picture(first), b = read_picture(second);
    if (a.width != b.width || a.height != b.height) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("'{}' is {}x{} but '{}' is {}x{}: compare clips of one size",
                        first.string(), a.width, a.height, second.string(), b.width, b.height));
    }
    const PictureView x = a.view(), y = b.view();
    const std::size_t count = a.rgb.size();
    const double squared = squared_difference(x, y);
    total.similarity += structural_similarity(x, y);
    total.gradient_deviation += gradient_deviation(x, y);
    for (std::size_t i = 0; i < count; ++i) {
        total.largest = std::max(total.largest, std::abs(int{x.rgb[i]} - int{y.rgb[i]}));
    }
    total.squared_error += squared;
    total.values += static_cast<double>(count);
    const double frame_psnr = psnr(squared, static_cast<double>(count));
    if (frame_psnr < total.worst_psnr) {
        total.worst_psnr = frame_psnr;
        total.worst_frame = first.filename().string();
    }
}

int compare(const fs::path& first, const fs::path& second, double least) {
    const std::vector<fs::path> a = pictures_in(first), b = pictures_in(second);
    if (a.size() != b.size()) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' holds {} pictures and '{}' {}: compare clips of one length",
                                first.string(), a.size(), second.string(), b.size()));
    }
    Comparison total;
    for (std::size_t i = 0; i < a.size(); ++i) {
        add_frame(total, a[i], b[i]);
    }
    const double all = psnr(total.squared_error, total.values);
    const double frames = static_cast<double>(a.size());
    fmt::print(
        "PSNR {:.2f} dB over {} frames (worst {:.2f} dB, {}), largest difference {}, SSIM {:.4f}, "
        "GMSD {:.4f}\n",
        all, a.size(), total.worst_psnr, total.worst_frame, total.largest,
        total.similarity / frames, total.gradient_deviation / frames);
    return all >= least ? 0 : 1;
}

}  // namespace
}  // namespace quantsparse::video

int main(int argc, char** argv) {
    CLI::App app("Compares two clips written as folders of png pictures.", "quantsparse-compare");
    std::string first, second;
    double least = -std::numeric_limits<double>::infinity();
    app.add_option("first", first, "folder of the first clip")->required();
    app.add_option("second", second, "folder of the second clip")->required();
    app.add_option("--min-psnr", least, "exit 1 below this many dB");
    try {
        app.parse(argc, argv);
        return quantsparse::video::compare(first, second, least);
    } catch (const CLI::Success& success) {
        return app.exit(success);
    } catch (const CLI::Error& error) {
        fmt::print(stderr, "quantsparse-compare: {} (see --help)\n", error.what());
        return 2;
    } catch (const quantsparse::Error& error) {
        fmt::print(stderr, "quantsparse-compare: {}\n", error.what());
        return error.code() == quantsparse::ErrorCode::invalid_argument ? 2 : 1;
    } catch (const std::exception& error) {
        fmt::print(stderr, "quantsparse-compare: {}\n", error.what());
        return 1;
    }
}
