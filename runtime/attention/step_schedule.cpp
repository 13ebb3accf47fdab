#include "attention/step_schedule.hpp"

#include <algorithm>
#include <cmath>

namespace quantsparse::attention {

int history_slots(SsarMode mode) {
    switch (mode) {
        case SsarMode::first:
        case SsarMode::svd:
            return 1;
        case SsarMode::second:
            return 2;
        case SsarMode::third:
            return 3;
        default:
            return 0;
    }
}

int resolved_dense_steps(const AttentionParameters& parameters, int steps) {
    if (parameters.dense_steps) return std::min(*parameters.dense_steps, steps);
    if (parameters.ssar != SsarMode::off) return 0;
    return static_cast<int>(std::lround(0.2 * steps));
}

StepSchedule::StepSchedule(const AttentionParameters& parameters, std::span<const float> sigmas,
                           const std::vector<bool>& reused)
    : parameters_(parameters), sigmas_(sigmas.begin(), sigmas.end()) {
    const int steps = static_cast<int>(sigmas_.size());
    const int dense_steps = resolved_dense_steps(parameters_, steps);
    const int computed = steps - static_cast<int>(std::count(reused.begin(), reused.end(), true));
    int index = 0;
    for (int step = 0; step < steps; ++step) {
        if (!reused.empty() && reused[static_cast<std::size_t>(step)]) {
            kinds_.push_back(StepKind::reused);
            continue;
        }
        StepKind kind = StepKind::sparse;
        if (parameters_.kind == AttentionKind::dense) {
            kind = StepKind::dense;
        } else if (is_refresh(index, computed)) {
            kind = StepKind::refresh;  // also among the dense steps: later ones need references
        } else if (step < dense_steps) {
            kind = StepKind::dense;
        }
        kinds_.push_back(kind);
        ++index;
    }
}

bool StepSchedule::is_refresh(int index, int computed) const {
    if (parameters_.ssar == SsarMode::off) return false;
    const int interval = parameters_.refresh_interval;
    if (index % interval == 0) return true;
    return parameters_.ssar_span == SsarSpan::adjacent && (index + 1) % interval == 0 &&
           index + 1 < computed;
}

bool StepSchedule::layer_is_dense(int layer) const {
    return parameters_.kind == AttentionKind::dense || layer < parameters_.dense_layers;
}

StepKind StepSchedule::kind(int step, int layer) const {
    return kind(step) != StepKind::reused && layer_is_dense(layer) ? StepKind::dense : kind(step);
}

bool StepSchedule::has(StepKind wanted) const {
    return count(wanted) > 0;
}

int StepSchedule::count(StepKind wanted) const {
    return static_cast<int>(std::count(kinds_.begin(), kinds_.end(), wanted));
}

Correction StepSchedule::correction(int step) const {
    std::vector<int> references;  // refresh steps up to this one
    for (int i = 0; i <= step; ++i) {
        if (kind(i) == StepKind::refresh) references.push_back(i);
    }
    Correction correction;
    const int slots = history_slots(parameters_.ssar);
    if (references.empty() || slots == 0) return correction;
    const int newest = static_cast<int>(references.size()) - 1;
    const auto slot = [&](int age) {
        return static_cast<std::size_t>((newest - age + 3 * slots) % slots);
    };
    correction.write_slot = static_cast<std::uint32_t>(slot(0));
    correction.read_slot = static_cast<std::uint32_t>(slot(1));
    correction.reference = static_cast<std::uint32_t>(newest);

    double gain = 1;
    if (newest > 0) {
        const auto at = [&](int i) { return references[static_cast<std::size_t>(i)]; };
        const int now = at(newest), before = at(newest - 1);
        const auto sigma = [&](int i) {
            return static_cast<double>(sigmas_[static_cast<std::size_t>(i)]);
        };
        if (parameters_.ssar_gain == SsarGain::linear) {
            gain = static_cast<double>(step - now) / (now - before);
        } else if (parameters_.ssar_gain == SsarGain::sigma && sigma(now) != sigma(before)) {
            gain = (sigma(step) - sigma(now)) / (sigma(now) - sigma(before));
        }
    }
    const float g = static_cast<float>(gain);
    const float curvature = static_cast<float>(gain * (gain + 1) / 2);
    for (int usable = 1; usable <= 3; ++usable) {
        auto& row = correction.coefficients[static_cast<std::size_t>(usable)];
        row[slot(0)] = 1;
        if (usable == 1) continue;
        if (parameters_.ssar == SsarMode::svd) row[3] = g;
        if (parameters_.ssar == SsarMode::second || parameters_.ssar == SsarMode::third) {
            row[slot(0)] += g;  // D0 + g (D0 - D1)
            row[slot(1)] -= g;
        }
        if (parameters_.ssar == SsarMode::third && usable == 3) {
            row[slot(0)] += curvature;  // Newton's backward formula: + g (g+1)/2 (D0 - 2 D1 + D2)
            row[slot(1)] -= 2 * curvature;
            row[slot(2)] += curvature;
        }
    }
    return correction;
}

}  // namespace quantsparse::attention
