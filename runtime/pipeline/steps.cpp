#include "pipeline/steps.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include "models/registry.hpp"
#include "pipeline/sampling_parameters.hpp"
#include "quantsparse/error.hpp"
#include "sampling/step_cache.hpp"

namespace quantsparse::pipeline {
namespace {

std::size_t expert_at(const Recipe& recipe, float timestep) {
    for (std::size_t e = 0; e + 1 < recipe.experts.size(); ++e) {
        if (timestep >= static_cast<float>(recipe.experts[e].from_timestep)) return e;
    }
    return recipe.experts.size() - 1;
}

std::vector<bool> reused_steps(const GenerationParameters& p, const format::Component& transformer,
                               std::span<const float> timesteps) {
    if (p.step_cache <= 0) return {};
    const auto& kind = models::denoising_kind(transformer.network);
    if (!kind.step_changes) {
        throw Error(ErrorCode::unsupported,
                    "nobody knows how this model's output changes from step to step: leave the "
                    "step cache off");
    }
    return sampling::reused_steps(
        kind.step_changes({transformer.checkpoint.get(), 0}, transformer.network, timesteps),
        p.step_cache);
}

std::optional<attention::DriftCurve> recorded_drift(const format::Quantization& quantization) {
    if (quantization.drift.empty()) return std::nullopt;
    static_assert(std::tuple_size_v<attention::DriftCurve> == format::kDriftLevels);
    attention::DriftCurve curve;
    std::copy(quantization.drift.begin(), quantization.drift.end(), curve.begin());
    return curve;
}

bool draws_noise(Sampler sampler) {
    return sampler == Sampler::lcm || sampler == Sampler::dmd || sampler == Sampler::rcm;
}

/// The clip's refreshes as those of the transformer that runs `count` steps from `first` on. Its
/// first step is one in any case: no residual comes from another transformer.
AttentionParameters own_refreshes(AttentionParameters attention, int first, int count, int steps) {
    if (!attention.refresh_steps.empty()) {
        std::vector<int> own = {0};
        for (const int step : attention.refresh_steps) {
            if (step > first && step < first + count) own.push_back(step - first);
        }
        attention.refresh_steps = own;
    }
    if (attention.refreshes) {
        const double share = static_cast<double>(*attention.refreshes) * count / steps;
        attention.refreshes = std::max(1, static_cast<int>(std::lround(share)));
    }
    return attention;
}

}  // namespace

std::unique_ptr<sampling::Scheduler> make_scheduler(
    const GenerationParameters& p, std::function<void(int step, std::span<float>)> draw) {
    auto options = sampler_options(p);
    options.draw = std::move(draw);
    return sampling::make_scheduler(options);
}

std::vector<ExpertSteps> steps_of(const GenerationParameters& p, const Recipe& recipe,
                                  const format::ModelBundle& bundle) {
    const auto scheduler = make_scheduler(p);
    const std::span<const float> sigmas(scheduler->sigmas()), timesteps(scheduler->timesteps());
    const auto recorded = recorded_drift(bundle.quantization);
    std::vector<ExpertSteps> steps;
    for (std::size_t first = 0, end = 0; first < timesteps.size(); first = end) {
        const std::size_t expert = expert_at(recipe, timesteps[first]);
        while (end < timesteps.size() && expert_at(recipe, timesteps[end]) == expert) ++end;
        const auto own = [&](std::span<const float> values) {
            return values.subspan(first, end - first);
        };
        const auto reused = reused_steps(p, bundle.at(recipe.experts[expert].role), own(timesteps));
        const auto own_attention =
            own_refreshes(p.attention, static_cast<int>(first), static_cast<int>(end - first),
                          static_cast<int>(timesteps.size()));
        attention::Drift drift;
        if (recorded) drift.curve = &*recorded;
        drift.last_sigma = sigmas[end];
        drift.fresh_noise = draws_noise(*p.sampler);
        steps.push_back({expert, static_cast<int>(first),
                         attention::StepSchedule(own_attention, own(sigmas), reused, drift)});
    }
    return steps;
}

}  // namespace quantsparse::pipeline
