#include "vae.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "format/model_bundle.hpp"
#include "measure.hpp"
#include "picture_reader.hpp"
#include "pipeline/decode.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

namespace fs = std::filesystem;

/// [frames, height, width, 3], as pipeline::to_rgb8 gives it.
struct Pictures {
    int frames = 0;
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> rgb;
};

Pictures read_clip(const fs::path& folder, const format::NetworkGeometry& vae) {
    Pictures clip;
    for (const fs::path& file : video::pictures_in(folder)) {
        const video::PicturePixels picture = video::read_picture(file);
        if (clip.frames == 0) {
            clip.width = picture.width;
            clip.height = picture.height;
        }
        if (picture.width != clip.width || picture.height != clip.height) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("'{}' is {}x{}, the clip's first picture {}x{}", file.string(),
                                    picture.width, picture.height, clip.width, clip.height));
        }
        clip.rgb.insert(clip.rgb.end(), picture.rgb.begin(), picture.rgb.end());
        ++clip.frames;
    }
    const int cell = vae.space, step = vae.time;
    if ((clip.frames - 1) % step || clip.width % cell || clip.height % cell) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("'{}' holds {} pictures of {}x{}: the autoencoder takes {}n + 1 "
                                "with sides that are multiples of {}",
                                folder.string(), clip.frames, clip.width, clip.height, step, cell));
    }
    return clip;
}

/// RGB in [-1, 1], channels first.
models::Clip to_clip(const Pictures& pictures) {
    models::Clip clip{3, pictures.frames, pictures.height, pictures.width, {}};
    const std::size_t pixels = pictures.rgb.size() / 3;
    clip.values.resize(pictures.rgb.size());
    for (std::size_t i = 0; i < pixels; ++i) {
        for (std::size_t c = 0; c < 3; ++c) {
            clip.values[c * pixels + i] =
                static_cast<float>(pictures.rgb[3 * i + c]) / 127.5f - 1.0f;
        }
    }
    return clip;
}

double psnr_of(const Pictures& original, std::span<const std::uint8_t> decoded) {
    // All frames below each other are one picture.
    const int rows = original.frames * original.height;
    const double squared = video::squared_difference({original.width, rows, original.rgb},
                                                     {original.width, rows, decoded});
    return video::psnr(squared, static_cast<double>(decoded.size()));
}

}  // namespace

void run_vae(const VaeOptions& options) {
    using Clock = std::chrono::steady_clock;
    const format::ModelBundle bundle = format::open_model(options.model);
    const format::Component& vae = bundle.at(pipeline::recipe_of(bundle.architecture).vae);
    Device device(options.device);
    fmt::print("device {} ({})\n", device.info().name, device.info().driver);
    const pipeline::StageOptions stage;
    std::vector<double> decibels;
    Json clips = Json::array();
    const auto start = Clock::now();
    for (const fs::path& folder : options.clips) {
        const Pictures original = read_clip(folder, vae.network.geometry);
        const models::Clip latents =
            pipeline::encode_video(device.internal(), vae, to_clip(original), stage);
        const auto tile = pipeline::choose_vae_tile(pipeline::device_limits(device.internal()),
                                                    vae.network, latents.height, latents.width,
                                                    device.internal().memory_budget());
        const auto decoded = pipeline::to_rgb8(
            pipeline::decode_latents(device.internal(), vae, latents, tile, stage));
        decibels.push_back(psnr_of(original, decoded));
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        const std::size_t left = options.clips.size() - decibels.size();
        fmt::print("{:<40} {}x{}x{} {:6.2f} dB   {}/{}, {:.0f} s, {:.0f} s left\n", folder.string(),
                   original.frames, original.height, original.width, decibels.back(),
                   decibels.size(), options.clips.size(), seconds,
                   seconds / static_cast<double>(decibels.size()) * static_cast<double>(left));
        std::fflush(stdout);
        clips.push_back({{"clip", (folder / "").parent_path().filename().string()},
                         {"psnr_db", decibels.back()}});
    }
    const double mean = std::accumulate(decibels.begin(), decibels.end(), 0.0) /
                        static_cast<double>(decibels.size());
    const double least = *std::min_element(decibels.begin(), decibels.end());
    fmt::print("{} clips: {:.2f} dB mean, {:.2f} dB least\n", decibels.size(), mean, least);
    if (options.json.empty()) return;
    Json document = device_json(device);
    document["mean_db"] = mean;
    document["least_db"] = least;
    document["clips"] = clips;
    write_json(options.json, document);
}

}  // namespace quantsparse::bench
