#include "pipeline/parameters.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <cmath>

#include "attention/low_rank.hpp"
#include "attention/step_schedule.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {
namespace {

constexpr int kMaxSide = 8192;
constexpr int kMaxFrames = 4097;
constexpr int kMaxSteps = 1000;

[[noreturn]] void fail(const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message);
}

void check_attention(const AttentionParameters& a) {
    if (!(a.density > 0 && a.density <= 1)) {
        fail(fmt::format("attention density {} makes no sense: choose more than 0 and at most 1",
                         a.density));
    }
    if (a.block_size != 0 && a.block_size != 32 && a.block_size != 64 && a.block_size != 128) {
        fail(fmt::format("blocks of {} tokens can't be run: choose 32, 64 or 128", a.block_size));
    }
    if (a.ssar_rank < 1 || a.ssar_rank > attention::kMaxRank) {
        fail(fmt::format("rank {} can't be run: choose 1 to {}", a.ssar_rank, attention::kMaxRank));
    }
    if (a.refresh_interval < 1) {
        fail(
            fmt::format("a refresh interval of {} steps makes no sense: choose 1 or more, for "
                        "example 5",
                        a.refresh_interval));
    }
    if (a.dense_layers < 0) fail("the number of dense layers must be 0 or more");
    const bool higher = a.ssar == SsarMode::second || a.ssar == SsarMode::third;
    if (a.residual == ResidualStorage::low_rank && higher) {
        fail("low-rank residuals hold no history: use the correction first or svd with them");
    }
    if (a.ssar == SsarMode::third && a.ssar_span == SsarSpan::adjacent) {
        fail("third order needs evenly spaced references: use the span refs with it");
    }
}

std::string nearest_frames(int frames, int factor) {
    const int below = std::max(1, (frames - 1) / factor * factor + 1);
    return fmt::format("{} or {}", below, below + factor);
}

void check_side(const char* name, int value, int multiple) {
    if (value < multiple || value > kMaxSide || value % multiple) {
        const int below =
            std::clamp(value / multiple * multiple, multiple, kMaxSide / multiple * multiple);
        fail(
            fmt::format("{} {} can't be generated: it must be a multiple of {} between {} and {}, "
                        "for example {}",
                        name, value, multiple, multiple, kMaxSide, below));
    }
}

void check_frames(int frames, int factor) {
    if (frames < 1 || frames > kMaxFrames || (frames - 1) % factor) {
        fail(fmt::format(
            "{} frames can't be generated: the number must be {}n + 1 and at most {}, for "
            "example {}",
            frames, factor, kMaxFrames,
            nearest_frames(std::clamp(frames, 1, kMaxFrames - factor), factor)));
    }
}

void check_sampling(const GenerationParameters& p) {
    if (p.steps < 1 || p.steps > kMaxSteps) {
        fail(fmt::format("{} steps can't be run: choose 1 to {}", p.steps, kMaxSteps));
    }
    if (!std::isfinite(p.guidance_scale) || p.guidance_scale > 100) {
        fail(fmt::format("guidance scale {} makes no sense: choose 1 to 20", p.guidance_scale));
    }
    if (!(p.flow_shift > 0) || p.flow_shift > 1000) {
        fail(fmt::format("flow shift {} makes no sense: choose 1 to 20", p.flow_shift));
    }
    if (!(p.step_cache >= 0) || p.step_cache > 100) {
        fail(
            fmt::format("a step cache threshold of {} makes no sense: choose 0 (off) or a "
                        "little more, for example 0.08",
                        p.step_cache));
    }
}

}  // namespace

GenerationParameters resolve(GenerationParameters p, const format::GenerationDefaults& defaults,
                             const format::ClipGeometry& geometry) {
    if (p.width == 0) p.width = defaults.native_width;
    if (p.height == 0) p.height = defaults.native_height;
    if (p.frames == 0) p.frames = defaults.native_frames;
    if (p.steps == 0) p.steps = defaults.steps;
    if (p.guidance_scale < 0) p.guidance_scale = defaults.guidance_scale;
    if (p.flow_shift == 0) p.flow_shift = defaults.flow_shift;
    check_side("width", p.width, geometry.width_multiple());
    check_side("height", p.height, geometry.height_multiple());
    check_frames(p.frames, geometry.time);
    check_sampling(p);
    check_attention(p.attention);
    if (p.attention.kind == AttentionKind::sparse) {
        p.attention.dense_steps = attention::resolved_dense_steps(p.attention, p.steps);
    }
    return p;
}

}  // namespace quantsparse::pipeline
