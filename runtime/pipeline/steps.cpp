#include "pipeline/steps.hpp"

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
    std::vector<ExpertSteps> steps;
    for (std::size_t first = 0, end = 0; first < timesteps.size(); first = end) {
        const std::size_t expert = expert_at(recipe, timesteps[first]);
        while (end < timesteps.size() && expert_at(recipe, timesteps[end]) == expert) ++end;
        const auto own = [&](std::span<const float> values) {
            return values.subspan(first, end - first);
        };
        const auto reused = reused_steps(p, bundle.at(recipe.experts[expert].role), own(timesteps));
        steps.push_back({expert, static_cast<int>(first),
                         attention::StepSchedule(p.attention, own(sigmas), reused)});
    }
    return steps;
}

}  // namespace quantsparse::pipeline
