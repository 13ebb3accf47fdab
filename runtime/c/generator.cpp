#include "c/generator.hpp"

#include <fmt/format.h>

#include "c/cancel.hpp"
#include "c/device.hpp"
#include "c/generation.hpp"
#include "c/status.hpp"
#include "c/structs.hpp"

namespace quantsparse::c {
namespace {

ModelFiles files_of(const qs_generator_options& o) {
    ModelFiles files;
    if (o.model) files.model = o.model;
    const std::pair<const char*, const char*> parts[] = {{"transformer", o.transformer},
                                                         {"text_encoder", o.text_encoder},
                                                         {"vae", o.vae},
                                                         {"tokenizer", o.tokenizer}};
    for (const auto& [role, path] : parts) {
        if (path) files.parts[role] = path;
    }
    return files;
}

PipelineOptions pipeline_options(const qs_generator_options& o) {
    PipelineOptions options;
    if (o.storage < QS_STORAGE_DEFAULT || o.storage > QS_STORAGE_HALF) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("storage {} is none of qs_storage", static_cast<int>(o.storage)),
                    "storage");
    }
    if (o.storage == QS_STORAGE_HALF) options.storage = Storage::half;
    if (o.weight_bits != 0) options.requantize = o.weight_bits;
    return options;
}

qs_picture picture_of(int width, int height, const std::uint8_t* rgb) {
    return {sizeof(qs_picture), width, height, rgb};
}

/// What a run calls, and whom that reaches.
GenerationCallbacks callbacks_of(const qs_generator& generator, const qs_callbacks& c,
                                 const GenerationParameters& resolved) {
    GenerationCallbacks callbacks;
    callbacks.progress = [c](const Progress& progress) {
        if (c.progress) {
            const qs_progress now = {
                sizeof(qs_progress), progress.stage,           progress.done,
                progress.total,      progress.elapsed_seconds, progress.remaining_seconds};
            c.progress(c.user, &now);
        }
        return !qs_cancel_requested(c.cancel);
    };
    if (c.preview && c.preview_interval > 0) {
        callbacks.preview_interval = c.preview_interval;
        callbacks.preview = [c](const Picture& picture, int step) {
            const qs_picture shown = picture_of(picture.width, picture.height, picture.rgb.data());
            c.preview(c.user, &shown, step);
        };
    }
    if (c.frame) {
        callbacks.frame = [c, width = *resolved.width, height = *resolved.height](
                              int index, std::span<const std::uint8_t> rgb) {
            const qs_picture shown = picture_of(width, height, rgb.data());
            c.frame(c.user, &shown, index);
        };
    }
    callbacks.warning = [&generator](const std::string& text) { generator.warn(text); };
    return callbacks;
}

qs_status generate(qs_generator& generator, const qs_generation* generation,
                   const qs_callbacks* given_callbacks, qs_video** video) {
    const qs_callbacks c = given_callbacks ? given(given_callbacks, "callbacks") : qs_callbacks{};
    const GenerationParameters p = parameters_of(generation);
    if (qs_cancel_requested(c.cancel)) return QS_CANCELLED;
    GenerationCallbacks callbacks = callbacks_of(generator, c, generator.generator.resolve(p));
    callbacks.keep_frames = video != nullptr;
    std::optional<Video> made = generator.generator.generate(p, callbacks);
    if (!made) return QS_CANCELLED;
    if (video) *video = new qs_video{std::move(*made)};
    return QS_OK;
}

qs_model_info info_of(const qs_generator& generator) {
    const ModelSummary& summary = generator.generator.summary();
    qs_model_info info{};
    info.architecture = summary.architecture.c_str();
    info.quantization = summary.quantization.c_str();
    info.width = summary.native_width;
    info.height = summary.native_height;
    info.frames = summary.native_frames;
    info.fps = summary.fps;
    info.steps = summary.default_steps;
    info.guidance_scale = summary.default_guidance_scale;
    info.flow_shift = summary.default_flow_shift;
    info.sampler = sampler_of(summary.default_sampler);
    return info;
}

}  // namespace
}  // namespace quantsparse::c

using quantsparse::c::guarded;
using quantsparse::c::hand_out;
using quantsparse::c::initialise;
using quantsparse::c::require;

void qs_generator_options_init_sized(qs_generator_options* options, size_t size) {
    initialise(options, size);
}
void qs_model_info_init_sized(qs_model_info* info, size_t size) {
    initialise(info, size);
}
void qs_memory_init_sized(qs_memory* memory, size_t size) {
    initialise(memory, size);
}
void qs_stage_memory_init_sized(qs_stage_memory* memory, size_t size) {
    initialise(memory, size);
}
void qs_callbacks_init_sized(qs_callbacks* callbacks, size_t size) {
    initialise(callbacks, size);
}
void qs_video_info_init_sized(qs_video_info* info, size_t size) {
    initialise(info, size);
}

qs_status qs_generator_create(qs_device* device, const qs_generator_options* options,
                              qs_generator** generator, qs_error* error) {
    return guarded(error, [&] {
        require(generator, "generator");
        *generator = nullptr;
        require(device, "device");
        const qs_generator_options o = quantsparse::c::given(options, "options");
        auto made = std::unique_ptr<qs_generator>(
            new qs_generator{device->device,
                             quantsparse::Generator(quantsparse::c::files_of(o), *device->device,
                                                    quantsparse::c::pipeline_options(o)),
                             o.log, o.log_user});
        for (const std::string& text : made->generator.summary().warnings) made->warn(text);
        *generator = made.release();
        return QS_OK;
    });
}

void qs_generator_destroy(qs_generator* generator) {
    delete generator;
}

qs_status qs_generator_get_model_info(const qs_generator* generator, qs_model_info* info,
                                      qs_error* error) {
    return guarded(error, [&] {
        require(generator, "generator");
        hand_out(info, "info", quantsparse::c::info_of(*generator));
        return QS_OK;
    });
}

qs_status qs_plan_create(const qs_generator* generator, const qs_generation* generation,
                         qs_plan** plan, qs_error* error) {
    return guarded(error, [&] {
        require(plan, "plan");
        *plan = nullptr;
        require(generator, "generator");
        auto memory = generator->generator.plan(quantsparse::c::parameters_of(generation));
        const std::string decision = memory.decision();
        *plan = new qs_plan{std::move(memory), decision};
        return QS_OK;
    });
}

qs_status qs_plan_get_memory(const qs_plan* plan, qs_memory* memory, qs_error* error) {
    return guarded(error, [&] {
        require(plan, "plan");
        qs_memory values{};
        values.peak_bytes = plan->memory.peak_bytes;
        values.budget_bytes = plan->memory.budget_bytes;
        values.least_bytes = plan->memory.least_bytes;
        values.fits = plan->memory.fits();
        values.decision = plan->decision.c_str();
        hand_out(memory, "memory", values);
        return QS_OK;
    });
}

size_t qs_plan_stage_count(const qs_plan* plan) {
    return plan ? plan->memory.stages.size() : 0;
}

qs_status qs_plan_get_stage(const qs_plan* plan, size_t index, qs_stage_memory* memory,
                            qs_error* error) {
    return guarded(error, [&] {
        require(plan, "plan");
        if (index >= plan->memory.stages.size()) {
            throw quantsparse::Error(quantsparse::ErrorCode::invalid_argument,
                                     fmt::format("there are {} stages, none is number {}",
                                                 plan->memory.stages.size(), index),
                                     "index");
        }
        const quantsparse::StagePlan& stage = plan->memory.stages[index];
        qs_stage_memory values{};
        values.stage = stage.stage.c_str();
        values.weight_bytes = stage.weight_bytes;
        values.activation_bytes = stage.activation_bytes;
        values.residual_bytes = stage.residual_bytes;
        values.staging_bytes = stage.staging_bytes;
        values.host_bytes = stage.host_bytes;
        hand_out(memory, "memory", values);
        return QS_OK;
    });
}

void qs_plan_destroy(qs_plan* plan) {
    delete plan;
}

qs_status qs_generate(qs_generator* generator, const qs_generation* generation,
                      const qs_callbacks* callbacks, qs_video** video, qs_error* error) {
    return guarded(error, [&] {
        if (video) *video = nullptr;
        require(generator, "generator");
        return quantsparse::c::generate(*generator, generation, callbacks, video);
    });
}

qs_status qs_video_get_info(const qs_video* video, qs_video_info* info, qs_error* error) {
    return guarded(error, [&] {
        require(video, "video");
        qs_video_info values{};
        values.width = video->video.width;
        values.height = video->video.height;
        values.frames = video->video.frames;
        values.fps = video->video.fps;
        const auto& shape = video->video.latent_shape;
        values.latent_channels = shape.at(0);
        values.latent_frames = shape.at(1);
        values.latent_height = shape.at(2);
        values.latent_width = shape.at(3);
        hand_out(info, "info", values);
        return QS_OK;
    });
}

const uint8_t* qs_video_frame(const qs_video* video, int index) {
    if (!video || index < 0 || index >= video->video.frames) return nullptr;
    const auto bytes = static_cast<std::size_t>(video->video.width) *
                       static_cast<std::size_t>(video->video.height) * 3;
    return video->video.rgb.data() + static_cast<std::size_t>(index) * bytes;
}

const float* qs_video_latents(const qs_video* video) {
    return video ? video->video.latents.data() : nullptr;
}

void qs_video_destroy(qs_video* video) {
    delete video;
}
