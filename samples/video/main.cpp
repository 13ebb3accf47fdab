// quantsparse-video: a prompt and a model go in, a video file comes out.
// Uses the public headers of libquantsparse only.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>

#include "device_json.hpp"
#include "flags.hpp"
#include "interrupt.hpp"
#include "latents_file.hpp"
#include "options.hpp"
#include "output_file.hpp"
#include "output_place.hpp"
#include "quantsparse/names.hpp"
#include "quantsparse/tuning.hpp"
#include "report.hpp"
#include "writer.hpp"

namespace quantsparse::video {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

int stopped() {
    fmt::print(stderr, "quantsparse-video: stopped: no file was written\n");
    return kFailed;
}

std::string name_of(const std::filesystem::path& path) {
    const std::filesystem::path name = path.filename();
    return (name.empty() ? path.parent_path().filename() : name).string();
}

/// The model's name, and those of files in the place of its own.
std::string model_name(const ModelFiles& files) {
    std::string name = name_of(files.model);
    for (const auto& [role, path] : files.parts) {
        name += fmt::format("{}{}: {}", name.empty() ? "" : ", ", role, name_of(path));
    }
    return name;
}

int list_devices(const Options& options) {
    const std::vector<DeviceInfo> devices = quantsparse::list_devices();
    fmt::print("{}", options.json ? devices_json(devices) : devices_table(devices));
    return kDone;
}

// Everything a run writes, opened before the work begins so that a bad place is found at once.
struct Outputs {
    std::vector<std::string> names;
    std::vector<std::unique_ptr<VideoWriter>> writers;
    std::optional<LatentsFile> latents;
    std::optional<OutputFile> profile;

    explicit Outputs(const Options& options) : names(options.outputs) {
        require_distinct(all_places(options));
        std::vector<OutputTarget> targets;  // all names are checked before any file is made
        for (const std::string& name : options.outputs) {
            targets.push_back(resolve_output(name, options.format));
        }
        for (const OutputTarget& target : targets) {
            writers.push_back(make_writer(target));
        }
        if (!options.latents.empty()) {
            latents.emplace(options.latents);
        }
        if (!options.profile_file.empty()) {
            profile.emplace(options.profile_file);
        }
    }

    static std::vector<std::filesystem::path> all_places(const Options& options) {
        std::vector<std::filesystem::path> places(options.outputs.begin(), options.outputs.end());
        for (const auto& other : {options.latents, options.profile_file, options.preview}) {
            if (!other.empty()) places.push_back(other);
        }
        return places;
    }

    void begin(const ClipProperties& properties) {
        for (const auto& writer : writers) {
            writer->begin(properties);
        }
    }

    void write_frame(std::span<const std::uint8_t> rgb) {
        for (const auto& writer : writers) {
            writer->write_frame(rgb);
        }
    }

    // Nothing is left behind of what was written before without it.
    void finish(const Video& video) {
        for (const auto& writer : writers) {
            writer->finish();
        }
        if (latents) {
            latents->write(video.latents, video.latent_shape);
        }
    }
};

void report_profile(const Options& options, const Generator& pipeline, const Device& device,
                    Outputs& outputs) {
    if (!options.pipeline.profile) {
        return;
    }
    if (outputs.profile) {
        outputs.profile->write(profile_json(pipeline.profile(), pipeline.stage_times(),
                                            pipeline.attention_layers(), device.info()));
        outputs.profile->finish();
    } else {
        fmt::print(
            stderr, "{}",
            profile_table(pipeline.profile(), pipeline.stage_times(), pipeline.attention_layers()));
    }
}

void report_done(const Options& options, const GenerationParameters& parameters, const Video& video,
                 const Generator& pipeline, const Device& device) {
    std::string times;
    for (const StageTime& stage : pipeline.stage_times()) {
        times += fmt::format("{}{} {}", times.empty() ? "" : ", ", stage.stage,
                             duration_text(stage.seconds));
    }
    fmt::print(stderr, "{}x{}, {} frames at {:g} fps, seed {}, on {}: {}\n", video.width,
               video.height, video.frames, video.fps, parameters.seed, device.info().name, times);
    for (const std::string& output : options.outputs) {
        if (output != "-") {
            fmt::print(stderr, "wrote {}\n", output);
        }
    }
}

int tune_device(const Options& options) {
    const bool shown = !options.quiet;
    if (shown) {
        fmt::print(stderr, "compiling and timing the candidates\n");
    }
    const auto on_trial = [&](const TuningTrial& trial) {
        if (shown) {
            fmt::print(stderr, "{:<40}{:>10.1f} GOP/s\n", trial.name,
                       trial.operations_a_second * 1e-9);
        }
    };
    const auto result = tune(options.device, TuningScope::arithmetic_and_tiles,
                             {[] { return !interrupted(); }, on_trial});
    if (!result) {
        return stopped();
    }
    if (result->file.empty()) {
        throw Error(ErrorCode::io,
                    "what was measured can't be kept: set XDG_CACHE_HOME to a "
                    "folder that can be written");
    }
    if (shown) {
        fmt::print(stderr, "{} products are used from now on, {:.1f} GOP/s; kept in {}\n",
                   word_of(result->tuning.arithmetic), result->operations_a_second * 1e-9,
                   result->file.string());
    }
    return kDone;
}

// The device asked for. Where nobody has said how integer products are formed, and nobody has
// measured it before, that is measured now; nothing when interrupted meanwhile.
std::optional<Device> open_device(const Options& options) {
    std::optional<Device> device(std::in_place, options.device);
    if (device->tuned() || options.plan || options.device.validation ||
        options.device.arithmetic != Arithmetic::automatic) {
        return device;
    }
    device.reset();
    if (!tune(options.device, TuningScope::arithmetic, {[] { return !interrupted(); }, {}})) {
        return std::nullopt;
    }
    device.emplace(options.device);
    return device;
}

void print_warning(const Options& options, const std::string& text) {
    if (!options.quiet) fmt::print(stderr, "quantsparse-video: warning: {}\n", text);
}

int generate(const Options& options) {
    for (const std::string& warning : options.warnings) print_warning(options, warning);
    std::optional<Outputs> outputs;
    if (!options.plan) {
        outputs.emplace(options);
    }
    std::optional<Device> opened = open_device(options);
    if (!opened) {
        return stopped();
    }
    Device& device = *opened;
    Generator pipeline(options.model, device, options.pipeline);
    for (const std::string& warning : pipeline.summary().warnings) {
        print_warning(options, warning);
    }
    const GenerationParameters parameters = pipeline.resolve(options.generation);
    if (options.plan) {
        const MemoryPlan plan = pipeline.plan(parameters);
        const StepCounts steps = pipeline.step_counts(parameters);
        fmt::print("{}", options.json ? plan_json(plan, steps, parameters)
                                      : plan_table(plan, steps, parameters));
        return kDone;
    }
    ClipProperties properties{*parameters.width, *parameters.height, *parameters.frames};
    properties.fps = options.fps.value_or(frame_rate(pipeline.summary().fps));
    properties.crf = options.crf;
    properties.comment =
        generation_record(parameters, pipeline.summary(), model_name(options.model));
    outputs->begin(properties);

    ProgressView view(options.quiet ? ProgressStyle::none : options.progress);
    GenerationCallbacks callbacks;
    callbacks.progress = [&](const Progress& progress) {
        view.update(progress);
        return !interrupted();
    };
    if (!options.preview.empty()) {
        callbacks.preview_interval = options.preview_interval;
        callbacks.preview = [&](const Picture& picture, int) {
            write_png(options.preview, picture.width, picture.height, picture.rgb);
        };
    }
    callbacks.frame = [&](int, std::span<const std::uint8_t> rgb) { outputs->write_frame(rgb); };
    callbacks.keep_frames = false;
    callbacks.plan = [&](const MemoryPlan& plan) {
        const bool streams = std::any_of(plan.stages.begin(), plan.stages.end(),
                                         [](const auto& stage) { return stage.host_bytes > 0; });
        if (!options.quiet && (streams || options.device.memory_limit)) {
            fmt::print(stderr, "memory: {}\n", plan.decision());
        }
    };
    callbacks.warning = [&](const std::string& text) {
        view.end_line();
        print_warning(options, text);
    };
    std::optional<Video> video;
    if (!interrupted()) {
        video = pipeline.generate(parameters, callbacks);
    }
    view.end_line();
    if (!video || interrupted()) {
        return stopped();
    }
    video->fps = properties.fps.per_second();
    if (device.validation_message_count() > 0) {
        throw Error(ErrorCode::device,
                    fmt::format("the validation layers reported {} messages: no file was written",
                                device.validation_message_count()));
    }
    outputs->finish(*video);
    report_profile(options, pipeline, device, *outputs);
    if (!options.quiet) {
        report_done(options, parameters, *video, pipeline, device);
    }
    return kDone;
}

int run(int argc, char** argv) {
    ParseResult parsed = parse_options(argc, argv);
    if (parsed.exit_code) {
        return *parsed.exit_code;
    }
    parsed.options.device.on_validation_message = [](const std::string& text) {
        fmt::print(stderr, "vulkan validation: {}\n", text);
    };
    watch_for_interrupts();
    if (parsed.options.list_devices) {
        return list_devices(parsed.options);
    }
    if (parsed.options.tune) {
        return tune_device(parsed.options);
    }
    return generate(parsed.options);
}

}  // namespace
}  // namespace quantsparse::video

int main(int argc, char** argv) {
    using namespace quantsparse;
    try {
        return video::run(argc, argv);
    } catch (const Error& error) {
        fmt::print(stderr, "quantsparse-video: {}\n", video::message_with_flag(error));
        return error.code() == ErrorCode::invalid_argument ? video::kWrongUsage : video::kFailed;
    } catch (const std::bad_alloc&) {
        fmt::print(stderr, "quantsparse-video: out of memory: lower --size or --frames\n");
        return video::kFailed;
    } catch (const std::exception& error) {
        fmt::print(stderr, "quantsparse-video: {}\n", error.what());
        return video::kFailed;
    }
}
