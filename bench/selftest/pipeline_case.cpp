// From token ids to 8-bit frames through all stages, with the stage code the executables use.
#include <fmt/format.h>
#include <algorithm>
#include <cstdlib>

#include "format/networks/registry.hpp"
#include "pipeline/decode.hpp"
#include "pipeline/denoise.hpp"
#include "pipeline/encode.hpp"
#include "sampling/scheduler.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

format::ModelBundle open_bundle(const Case& c) {
    format::ModelBundle bundle;
    const auto open = [&](const char* role, const char* kind_name, const nlohmann::json& config) {
        const auto& kind = format::network_kind(kind_name);
        auto checkpoint =
            std::make_shared<format::Checkpoint>(format::Checkpoint::open(c.folder / role, kind));
        auto network = kind.describe(config, checkpoint.get(), c.name);
        bundle.components[role] = {std::move(network), std::move(checkpoint)};
    };
    open("transformer", "wan-dit", c.json.at("transformer").at("config"));
    open("text_encoder", "umt5", c.json.at("text_encoder").at("config"));
    const auto& vae = c.json.at("vae");
    nlohmann::json json = vae.at("config");
    json["latents_mean"] = vae.at("latents_mean");
    json["latents_std"] = vae.at("latents_std");
    open("vae", "wan-vae", json);
    return bundle;
}

/// The clip that the run's latents are decoded to.
Result video_result(const Case& c, const nlohmann::json& run, const Settings& settings,
                    const models::Clip& video) {
    const std::string id = run.at("id").get<std::string>();
    const auto& tolerances = run.at("tolerance");
    RunReport frames(
        c.name + "/" + id + ".video",
        settings.tolerance(tolerances.at(tolerances.contains("video") ? "video" : "final_latent")));
    if (c.has(id + ".out.video")) {
        std::vector<float> clamped = video.values;
        for (float& value : clamped) value = std::clamp(value, -1.0f, 1.0f);
        frames.output("video", clamped, c.floats(id + ".out.video"));
    }
    const auto rgb = pipeline::to_rgb8(video);
    const auto reference = c.integers(id + ".out.frames_u8");
    int largest = 0;
    std::size_t flipped = 0;
    for (std::size_t i = 0; i < rgb.size() && i < reference.size(); ++i) {
        const int difference = std::abs(static_cast<int>(rgb[i]) - reference[i]);
        largest = std::max(largest, difference);
        flipped += difference != 0;
    }
    frames.require(rgb.size() == reference.size(), "frames_u8 has another size");
    // Truncation may flip a value within rounding error of an integer; half storage moves more
    // of them.
    if (!settings.half) {
        frames.require(
            largest <= 1 && flipped * 200 < rgb.size(),
            fmt::format("{} of {} bytes differ, by up to {}", flipped, rgb.size(), largest));
    }
    return frames.result();
}

}  // namespace

std::vector<Result> run_pipeline(const Case& c, const Settings& settings) {
    vulkan::Device& device = *settings.device;
    const format::ModelBundle bundle = open_bundle(c);
    pipeline::StageOptions options;
    options.half = settings.half;
    const auto encode = [&](const char* which) {
        const auto ids = c.integers(fmt::format("in.{}_ids", which));
        const auto mask = c.integers(fmt::format("in.{}_mask", which));
        return pipeline::encode_tokens(device, bundle.at("text_encoder"), {ids.begin(), ids.end()},
                                       static_cast<int>(std::count(mask.begin(), mask.end(), 1)),
                                       options)
            .rows;
    };
    const auto prompt = encode("prompt"), negative = encode("negative");
    const auto noise_shape = c.shape("in.noise");
    const models::LatentShape shape{noise_shape[0], noise_shape[1], noise_shape[2], noise_shape[3]};
    const auto& transformer = bundle.at("transformer");
    pipeline::Denoiser denoiser(
        device, transformer, pipeline::denoising_options(transformer, {}, shape, 2, options.half),
        options);
    denoiser.write("context", prompt);
    denoiser.set_prompt(0);
    denoiser.write("context", negative);
    denoiser.set_prompt(1);

    std::vector<Result> results;
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id").get<std::string>();
        const auto& tolerances = run.at("tolerance");
        RunReport report(c.name + "/" + id, settings.tolerance(tolerances.at("final_latent")));
        report.intermediate("context", prompt, c.floats("mid.context"));
        report.intermediate("context_null", negative, c.floats("mid.context_null"));
        const auto scheduler =
            sampling::make_scheduler(run.at("solver") == "unipc" ? Sampler::unipc : Sampler::dpmpp,
                                     run.at("steps").get<int>(), run.at("shift").get<double>());
        std::vector<float> latent = c.floats("in.noise");
        std::vector<float> latents, conditional, unconditional;
        for (const float t : scheduler->timesteps()) {
            auto v = denoiser.predict(0, latent, t);
            const auto u = denoiser.predict(1, latent, t);
            conditional.insert(conditional.end(), v.begin(), v.end());
            unconditional.insert(unconditional.end(), u.begin(), u.end());
            sampling::apply_guidance(v, u, run.at("guide_scale").get<float>());
            scheduler->step(latent, v);
            latents.insert(latents.end(), latent.begin(), latent.end());
        }
        if (c.has(id + ".mid.velocity_cond")) {
            report.intermediate("velocity_cond", conditional, c.floats(id + ".mid.velocity_cond"));
            report.intermediate("velocity_uncond", unconditional,
                                c.floats(id + ".mid.velocity_uncond"));
        }
        report.output("latents", latents, c.floats(id + ".out.latents"));
        results.push_back(report.result());

        const models::Clip video = pipeline::decode_latents(
            device, bundle.at("vae"),
            {shape.channels, shape.frames, shape.height, shape.width, latent},
            {shape.height, shape.width}, options);
        results.push_back(video_result(c, run, settings, video));
    }
    return results;
}

}  // namespace quantsparse::selftest
