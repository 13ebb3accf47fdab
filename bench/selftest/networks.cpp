// The three networks, run by run, intermediates included.
#include <fmt/format.h>
#include <algorithm>

#include "format/encoded_weights.hpp"
#include "format/networks/registry.hpp"
#include "models/registry.hpp"
#include "models/umt5_encoder.hpp"
#include "pipeline/stage.hpp"
#include "selftest/case.hpp"

namespace quantsparse::selftest {
namespace {

std::vector<float> read_kept(const program::Executor& executor, const std::string& name) {
    const auto& kept = executor.program().intermediates();
    const auto it = kept.find(name);
    if (it == kept.end()) return {};
    return executor.read_values<float>(it->second, executor.program().bytes_of(it->second) / 4);
}

/// Tensors are rounded up to 16 bytes; the reference says how many values are meant.
std::vector<float> read_kept(const program::Executor& executor, const std::string& name,
                             std::size_t count) {
    auto values = read_kept(executor, name);
    if (values.size() > count) values.resize(count);
    return values;
}

/// Names under `mid.` of the transformer, in the order they are computed.
std::vector<std::string> dit_intermediates(int layers) {
    std::vector<std::string> names = {"time_sinusoid", "time_e", "time_e0", "text_embedding",
                                      "patch_embedding"};
    for (int i = 0; i < layers; ++i) {
        for (const char* part :
             {"self_attn.q_rope", "self_attn.k_rope", "self_attn.attn", "after_self_attn",
              "cross_attn.attn", "after_cross_attn", "after_ffn"}) {
            names.push_back(fmt::format("block{}.{}", i, part));
        }
    }
    names.push_back("head");
    return names;
}

/// The case's own weights and, where there are, the same in diffusers' layout.
std::vector<std::pair<std::string, std::filesystem::path>> layouts(const Case& c) {
    std::vector<std::pair<std::string, std::filesystem::path>> found = {{"", c.weights()}};
    if (std::filesystem::exists(c.folder / "diffusers" / "model.safetensors")) {
        found.emplace_back("diffusers.", c.folder / "diffusers");
    }
    return found;
}

/// [channels, frames, plane] from frame-major pictures [frames, channels, plane].
std::vector<float> channel_major(const std::vector<float>& values, int frames, int channels) {
    const std::size_t plane = values.size() / static_cast<std::size_t>(frames * channels);
    std::vector<float> out(values.size());
    for (int f = 0; f < frames; ++f) {
        for (int ch = 0; ch < channels; ++ch) {
            std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(
                                             static_cast<std::size_t>(f * channels + ch) * plane),
                        plane,
                        out.begin() + static_cast<std::ptrdiff_t>(
                                          static_cast<std::size_t>(ch * frames + f) * plane));
        }
    }
    return out;
}

}  // namespace

std::vector<Result> run_dit(const Case& c, const Settings& settings) {
    std::vector<Result> results;
    const auto& kind = format::network_kind("wan-dit");
    for (const auto& [layout, path] : layouts(c)) {
        const auto checkpoint = format::Checkpoint::open(path, kind);
        const format::Network network = kind.describe(c.json.at("config"), &checkpoint, c.name);
        for (const auto& run : c.json.at("runs")) {
            const std::string id = run.at("id").get<std::string>() + ".";
            const auto latent = c.shape(id + "in.latent");
            const bool intermediates = run.value("intermediates", false);

            program::Program program(pipeline::device_limits(*settings.device), intermediates);
            models::DenoisingOptions options;
            options.latent = {latent[0], latent[1], latent[2], latent[3]};
            options.half = settings.half;
            if (run.contains("topk")) options.attention.density = run.at("topk").get<double>();
            options.quantization = format::native_quantization(network, checkpoint);
            const auto dit = models::denoising_kind(network).make(program, network, options);
            program::Executor executor(*settings.device, program, false, settings.force_staging);
            dit->weights().upload(executor, {&checkpoint, 0});
            const auto write = [&](const char* input, const std::vector<float>& values) {
                dit->write(executor, input, values);
            };
            write("context", c.floats(id + "in.context"));
            executor.run(dit->prompt_phase(0));
            write("latent", c.floats(id + "in.latent"));
            write("timestep", {c.floats(id + "in.timestep").at(0)});
            executor.run(dit->step_phase(0));

            RunReport report(c.name + "/" + layout + run.at("id").get<std::string>(),
                             settings.tolerance(c.json.at("tolerance")));
            if (intermediates) {
                for (const std::string& name :
                     dit_intermediates(static_cast<int>(network.blocks.size()))) {
                    if (!c.has(id + "mid." + name)) continue;
                    const auto reference = c.floats(id + "mid." + name);
                    report.intermediate(name, read_kept(executor, name, reference.size()),
                                        reference);
                }
            }
            const auto reference = c.floats(id + "out.velocity");
            report.output("velocity",
                          executor.read_values<float>(dit->prediction(0), reference.size()),
                          reference);
            results.push_back(report.result());
        }
    }
    return results;
}

std::vector<Result> run_umt5(const Case& c, const Settings& settings) {
    std::vector<Result> results;
    const auto& kind = format::network_kind("umt5");
    const format::Network network = kind.describe(c.json.at("config"), nullptr, c.name);
    for (const auto& [layout, path] : layouts(c)) {
        const auto checkpoint = format::Checkpoint::open(path, kind);
        for (const auto& run : c.json.at("runs")) {
            const std::string id = run.at("id").get<std::string>() + ".";
            RunReport report(c.name + "/" + layout + run.at("id").get<std::string>(),
                             settings.tolerance(c.json.at("tolerance")));
            const auto ids = c.integers(id + "in.ids");
            const auto mask = c.integers(id + "in.mask");
            const int valid = static_cast<int>(std::count(mask.begin(), mask.end(), 1));
            report.require(std::is_sorted(mask.rbegin(), mask.rend()), "the mask is no prefix");

            program::Program program(pipeline::device_limits(*settings.device),
                                     run.value("intermediates", false));
            const models::Umt5Encoder encoder(program, network, static_cast<int>(ids.size()), valid,
                                              settings.half);
            program::Executor executor(*settings.device, program, false, settings.force_staging);
            const std::size_t dim = static_cast<std::size_t>(network.geometry.text_width);
            const std::size_t stride = (dim + 3) / 4 * 4;
            const auto states =
                encoder.encode(executor, checkpoint, {ids.begin(), ids.end()}, {}, [&](int layer) {
                    const auto look = [&](const std::string& name, const std::string& kept) {
                        if (!c.has(id + "mid." + name)) return;
                        const auto reference = c.floats(id + "mid." + name);
                        report.intermediate(name, read_kept(executor, kept, reference.size()),
                                            reference);
                    };
                    if (layer == 0) {
                        look("block0.norm1", "norm1");
                        look("block0.attn", "attn");
                        look("block0.ffn", "ffn");
                    }
                    const std::string out = fmt::format("mid.block{}.out", layer);
                    if (c.has(id + out)) {
                        const auto rows =
                            executor.read_values<float>(encoder.hidden(), ids.size() * stride);
                        std::vector<float> dense;
                        for (std::size_t i = 0; i < ids.size() * dim; ++i) {
                            dense.push_back(rows[i / dim * stride + i % dim]);
                        }
                        report.intermediate(out, dense, c.floats(id + out));
                    }
                });
            if (c.has("rel_pos")) {
                const auto positions = c.integers("rel_pos");
                const auto buckets = c.integers("rel_pos_bucket");
                bool equal = true;
                for (std::size_t i = 0; i < positions.size(); ++i) {
                    equal &= buckets[i] == encoder.bucket(positions[i]);
                }
                report.require(equal, "relative position buckets differ");
            }
            const std::vector<float>& hidden = states.rows;
            report.output("hidden", hidden, c.floats(id + "out.hidden"));
            report.output("context",
                          std::span<const float>(hidden).first(
                              std::min(hidden.size(), static_cast<std::size_t>(valid) * dim)),
                          c.floats(id + "out.context"));
            results.push_back(report.result());
        }
    }
    return results;
}

std::vector<Result> run_vae(const Case& c, const Settings& settings) {
    std::vector<Result> results;
    nlohmann::json json = c.json.at("config");
    json["latents_mean"] = c.json.at("latents_mean");
    json["latents_std"] = c.json.at("latents_std");
    const auto& kind = format::network_kind("wan-vae");
    const format::Network network = kind.describe(json, nullptr, c.name);
    const auto checkpoint = format::Checkpoint::open(c.weights(), kind);
    for (const auto& run : c.json.at("runs")) {
        const std::string id = run.at("id").get<std::string>() + ".";
        const bool decode = run.at("op").get<std::string>() == "decode";
        const std::string input_name = id + (decode ? "in.latent" : "in.video");
        const auto shape = c.shape(input_name);
        program::Program program(pipeline::device_limits(*settings.device),
                                 run.value("intermediates", false));
        using Direction = models::VideoVae::Direction;
        const auto vae = models::video_vae_kind(network).make(
            program, network, decode ? Direction::decode : Direction::encode, shape[2], shape[3]);
        program::Executor executor(*settings.device, program, false, settings.force_staging);
        vae->weights().upload(executor, {&checkpoint, 0});

        std::map<std::string, std::vector<float>> kept;  // name -> chunks one after another
        models::JoinedClip parts;
        vae->run(
            executor, {shape[0], shape[1], shape[2], shape[3], c.floats(input_name)},
            [&](const models::Clip& part) { parts.add(part); }, {},
            [&](const std::string& prefix) {
                for (const auto& [name, tensor] : executor.program().intermediates()) {
                    if (name.rfind(prefix, 0) != 0) continue;
                    const auto values = read_kept(executor, name);
                    auto& all = kept[name.substr(prefix.size())];
                    all.insert(all.end(), values.begin(), values.end());
                }
            });
        const models::Clip out = parts.take();

        RunReport report(c.name + "/" + run.at("id").get<std::string>(),
                         settings.tolerance(c.json.at("tolerance")));
        std::vector<std::string> names =
            decode
                ? std::vector<std::string>{"dec.post_quant", "dec.conv1",  "dec.mid",
                                           "dec.stage0",     "dec.stage1", "dec.stage2",
                                           "dec.stage3"}
                : std::vector<std::string>{"enc.conv1",  "enc.stage0", "enc.stage1", "enc.stage2",
                                           "enc.stage3", "enc.mid",    "enc.head"};
        for (const std::string& name : names) {
            if (!c.has(id + "mid." + name) || !kept.count(name)) continue;
            const auto extent = c.shape(id + "mid." + name);
            const auto reference = c.floats(id + "mid." + name);
            const bool whole = kept[name].size() == reference.size();
            report.require(whole, name + " has another size");
            if (whole)
                report.intermediate(name, channel_major(kept[name], extent[1], extent[0]),
                                    reference);
        }
        if (decode) {
            report.output("video_unclamped", out.values, c.floats(id + "out.video_unclamped"));
            std::vector<float> clamped = out.values;
            for (float& value : clamped) value = std::clamp(value, -1.0f, 1.0f);
            report.output("video", clamped, c.floats(id + "out.video"));
        } else {
            report.output("latent", out.values, c.floats(id + "out.latent"));
        }
        results.push_back(report.result());
    }
    return results;
}

}  // namespace quantsparse::selftest
