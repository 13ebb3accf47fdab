#include "pipeline/parameters.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "attention/step_schedule.hpp"
#include "pipeline/sampling_parameters.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse {
namespace {

constexpr int kMaxSide = 8192;
constexpr int kMaxFrames = 4097;
constexpr int kMaxSteps = 1000;
constexpr double kMaxGuidance = 100;
constexpr double kMaxShift = 1000;
constexpr double kMaxStepCache = 100;
constexpr double kMaxStrength = 100;

[[noreturn]] void fail(const char* field, const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message, field);
}

std::string nearest_frames(int frames, int factor) {
    const int below = std::max(1, (frames - 1) / factor * factor + 1);
    return fmt::format("{} or {}", below, below + factor);
}

void check_side(const char* field, int value, int multiple) {
    if (value < multiple || value > kMaxSide || value % multiple) {
        const int below =
            std::clamp(value / multiple * multiple, multiple, kMaxSide / multiple * multiple);
        fail(field, fmt::format("a {} of {} can't be generated: it must be a multiple of {} "
                                "between {} and {}, for example {}",
                                field, value, multiple, multiple, kMaxSide, below));
    }
}

void check_frames(int frames, const format::ClipGeometry& geometry) {
    if (frames > kMaxFrames || !geometry.fits_frames(frames)) {
        const int factor = geometry.time * geometry.patch[0];
        fail("frames",
             fmt::format("{} frames can't be generated: the number must be {}n + 1 and at most {}, "
                         "for example {}",
                         frames, factor, kMaxFrames,
                         nearest_frames(std::clamp(frames, 1, kMaxFrames - factor), factor)));
    }
}

/// Refreshes that the clip has no steps for.
void check_refreshes(const AttentionParameters& attention, int steps) {
    if (!attention.refresh_steps.empty() && attention.refresh_steps.back() >= steps) {
        fail("refresh_steps",
             fmt::format("there is no step {} in a clip of {} steps: they are 0 to {}",
                         attention.refresh_steps.back(), steps, steps - 1));
    }
    if (attention.refreshes && *attention.refreshes > steps) {
        fail("refreshes", fmt::format("{} refreshes don't fit into {} steps: choose at most {}",
                                      *attention.refreshes, steps, steps));
    }
}

/// What this version's models can't be made from.
void check_conditioning(const Conditioning& conditioning) {
    const auto refuse = [](bool given, const char* field, const char* what) {
        if (given) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("this model takes no {}: leave it out", what), field);
        }
    };
    refuse(conditioning.image.has_value(), "image", "image to begin with");
    refuse(conditioning.last_image.has_value(), "last_image", "image to end with");
}

}  // namespace

void check(const GenerationParameters& p) {
    for (const auto& [field, side] : {std::pair{"width", p.width}, std::pair{"height", p.height}}) {
        if (side && (*side < 1 || *side > kMaxSide)) {
            fail(field, fmt::format("{} makes no sense: choose 1 to {} pixels", *side, kMaxSide));
        }
    }
    if (p.frames && (*p.frames < 1 || *p.frames > kMaxFrames)) {
        fail("frames", fmt::format("{} makes no sense: choose 1 to {}", *p.frames, kMaxFrames));
    }
    if (p.steps && (*p.steps < 1 || *p.steps > kMaxSteps)) {
        fail("steps", fmt::format("{} can't be run: choose 1 to {}", *p.steps, kMaxSteps));
    }
    if (p.guidance_scale && !(*p.guidance_scale >= 0 && *p.guidance_scale <= kMaxGuidance)) {
        fail("guidance_scale",
             fmt::format("{} makes no sense: choose 1 (off) to {}, usually 3 to 7",
                         *p.guidance_scale, kMaxGuidance));
    }
    if (p.flow_shift && !(*p.flow_shift > 0 && *p.flow_shift <= kMaxShift)) {
        fail("flow_shift",
             fmt::format("{} makes no sense: choose more than 0, usually 3 to 12", *p.flow_shift));
    }
    for (const auto& [field, list] :
         {std::pair{"sigmas", &p.sigmas}, std::pair{"timesteps", &p.timesteps}}) {
        if (list->size() > static_cast<std::size_t>(kMaxSteps)) {
            fail(field,
                 fmt::format("{} are too many steps: choose 1 to {}", list->size(), kMaxSteps));
        }
    }
    pipeline::with_sampling_set(p);
    if (!(p.step_cache >= 0 && p.step_cache <= kMaxStepCache)) {
        fail("step_cache",
             fmt::format("{} makes no sense: choose 0 (off) or a little more, for example 0.08",
                         p.step_cache));
    }
    for (const Adapter& adapter : p.conditioning.adapters) {
        if (!(std::abs(adapter.strength) <= kMaxStrength)) {
            fail("adapters",
                 fmt::format("a strength of {} for '{}' makes no sense: choose -{} to {}, usually "
                             "0.5 to 1",
                             adapter.strength, adapter.file.string(), kMaxStrength, kMaxStrength));
        }
    }
    check(p.attention);
}

namespace pipeline {

AttentionParameters attention_for(AttentionParameters parameters,
                                  const format::Network& transformer) {
    const bool trained = transformer.sparse_linear;
    if (!parameters.kind) parameters.kind = trained ? AttentionKind::sla : AttentionKind::dense;
    if (trained && parameters.kind != AttentionKind::sla) {
        fail("kind",
             "this transformer was trained with sparse-linear attention (it holds proj_l) and runs "
             "with nothing else: leave this out or choose sla; its density can be chosen");
    }
    if (!trained && parameters.kind == AttentionKind::sla) {
        fail("kind",
             "this transformer was not trained with sparse-linear attention (it holds no proj_l): "
             "choose dense or sparse");
    }
    return parameters;
}

GenerationParameters resolve(GenerationParameters p, const format::GenerationDefaults& defaults,
                             const format::ClipGeometry& geometry) {
    check(p);
    check_conditioning(p.conditioning);
    p = with_sampling_set(std::move(p), defaults.sampler);
    p.width = p.width.value_or(defaults.native_width);
    p.height = p.height.value_or(defaults.native_height);
    p.frames = p.frames.value_or(defaults.native_frames);
    p.steps = p.steps.value_or(defaults.steps);
    p.guidance_scale = p.guidance_scale.value_or(defaults.guidance_scale);
    if (p.sampler != Sampler::rcm) p.flow_shift = p.flow_shift.value_or(defaults.flow_shift);
    check_side("width", *p.width, geometry.width_multiple());
    check_side("height", *p.height, geometry.height_multiple());
    check_frames(*p.frames, geometry);
    if (p.attention.kind == AttentionKind::sparse) {
        p.attention = attention::resolved(p.attention, *p.steps);
        check_refreshes(p.attention, *p.steps);
    } else if (p.attention.kind == AttentionKind::sla) {
        p.attention.density = attention::density_of(p.attention);
    }
    return p;
}

}  // namespace pipeline
}  // namespace quantsparse
