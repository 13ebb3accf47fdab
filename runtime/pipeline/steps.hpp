// A clip's steps: which of the recipe's transformers runs each, and with which attention.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/step_schedule.hpp"
#include "format/model_bundle.hpp"
#include "pipeline/recipes.hpp"
#include "quantsparse/pipeline.hpp"
#include "sampling/scheduler.hpp"

namespace quantsparse::pipeline {

/// Steps first .. first + schedule.steps() - 1, all of one transformer.
struct ExpertSteps {
    std::size_t expert = 0;  ///< in the recipe
    int first = 0;
    attention::StepSchedule schedule;  ///< its step 0 is `first`
};

/// `p`: resolved, as below.
/// `draw`: noise that the sampler adds on the way.
std::unique_ptr<sampling::Scheduler> make_scheduler(
    const GenerationParameters& p, std::function<void(int step, std::span<float>)> draw = {});

/// Every step once, in order. Residuals and reused outputs start anew with each transformer. Reads
/// the timestep embedding where steps may be reused.
std::vector<ExpertSteps> steps_of(const GenerationParameters& p, const Recipe& recipe,
                                  const format::ModelBundle& bundle);

}  // namespace quantsparse::pipeline
