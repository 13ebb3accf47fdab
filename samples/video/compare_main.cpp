// quantsparse-compare: how far two clips lie apart, both as folders of png pictures
// (quantsparse-video -o DIR/).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "picture_metrics.hpp"
#include "quantsparse/error.hpp"
#include "stb_image.h"

namespace quantsparse::video {
namespace fs = std::filesystem;
namespace {

struct Pixels {
    int width = 0;
    int height = 0;
    std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> rgb{nullptr, stbi_image_free};
};

std::vector<fs::path> pictures_in(const fs::path& folder) {
    std::vector<fs::path> files;
    std::error_code error;
    for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
        if (entry->path().extension() == ".png") {
            files.push_back(entry->path());
        }
    }
    if (error || files.empty()) {
        throw Error(ErrorCode::io,
                    fmt::format("'{}' is not a folder of png pictures: write one with "
                                "quantsparse-video -o DIR/",
                                folder.string()));
    }
    std::sort(files.begin(), files.end());
    return files;
}

Pixels load(const fs::path& file) {
    Pixels pixels;
    int channels = 0;
    pixels.rgb.reset(stbi_load(file.c_str(), &pixels.width, &pixels.height, &channels, 3));
    if (pixels.rgb == nullptr) {
        throw Error(ErrorCode::bad_file, fmt::format("cannot read the picture '{}': {}",
                                                     file.string(), stbi_failure_reason()));
    }
    return pixels;
}

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
    const Pixels a = load(first), b = load(second);
    if (a.width != b.width || a.height != b.height) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("'{}' is {}x{} but '{}' is {}x{}: compare clips of one size",
                        first.string(), a.width, a.height, second.string(), b.width, b.height));
    }
    const std::size_t count =
        std::size_t{3} * static_cast<std::size_t>(a.width) * static_cast<std::size_t>(a.height);
    const PictureView x{a.width, a.height, {a.rgb.get(), count}};
    const PictureView y{b.width, b.height, {b.rgb.get(), count}};
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
