#include "attention/step_schedule.hpp"

#include <algorithm>
#include <cmath>

#include "attention/block_rule.hpp"

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

AttentionParameters resolved(AttentionParameters parameters, int steps) {
    constexpr int kFewestForTwoReferences = 8;
    if (!parameters.kind) parameters.kind = AttentionKind::dense;
    if (parameters.mask_file.empty()) parameters.density = density_of(parameters);
    parameters.top_p = top_p_of(parameters);
    parameters.block_order = block_order_of(parameters);
    if (!parameters.ssar) {
        parameters.ssar = steps < kFewestForTwoReferences ? SsarMode::first : SsarMode::svd;
    }
    const int fifth = static_cast<int>(std::lround(0.2 * steps));
    const int dense = parameters.dense_steps.value_or(parameters.ssar == SsarMode::off ? fifth : 0);
    parameters.dense_steps = std::min(dense, steps);
    return parameters;
}

double density_of(const AttentionParameters& parameters) {
    return parameters.density.value_or(parameters.kind == AttentionKind::sla ? 0.1 : 0.25);
}

StepSchedule::StepSchedule(const AttentionParameters& parameters, std::span<const float> sigmas,
                           const std::vector<bool>& reused, const Drift& drift)
    : parameters_(resolved(parameters, static_cast<int>(sigmas.size()))),
      sigmas_(sigmas.begin(), sigmas.end()),
      kinds_(sigmas.size(), StepKind::reused) {
    std::vector<int> computed;
    for (std::size_t step = 0; step < sigmas.size(); ++step) {
        if (reused.empty() || !reused[step]) computed.push_back(static_cast<int>(step));
    }
    const std::vector<bool> is_refresh = refreshes(computed, drift);
    for (std::size_t i = 0; i < computed.size(); ++i) {
        StepKind& kind = kinds_[static_cast<std::size_t>(computed[i])];
        kind = StepKind::sparse;
        if (parameters_.kind != AttentionKind::sparse) {
            kind = StepKind::dense;
        } else if (is_refresh[i]) {
            kind = StepKind::refresh;  // also among the dense steps: later ones need references
        } else if (computed[i] < *parameters_.dense_steps) {
            kind = StepKind::dense;
        }
    }
}

std::vector<bool> StepSchedule::refreshes(const std::vector<int>& computed,
                                          const Drift& drift) const {
    std::vector<bool> marks(computed.size(), false);
    if (parameters_.ssar == SsarMode::off || parameters_.kind != AttentionKind::sparse) {
        return marks;
    }
    const bool even = parameters_.refresh_interval || parameters_.ssar == SsarMode::third;
    marks = !parameters_.refresh_steps.empty() ? listed(computed)
            : even                             ? periodic(computed.size())
                                               : placed(computed, drift);
    if (parameters_.ssar_span == SsarSpan::adjacent) {
        for (std::size_t i = 1; i + 1 < marks.size(); ++i) {
            if (marks[i + 1]) marks[i] = true;
        }
    }
    return marks;
}

std::vector<bool> StepSchedule::periodic(std::size_t count) const {
    constexpr int kPaperInterval = 5;
    const auto interval =
        static_cast<std::size_t>(parameters_.refresh_interval.value_or(kPaperInterval));
    std::vector<bool> marks(count, false);
    for (std::size_t i = 0; i < count; i += interval) marks[i] = true;
    return marks;
}

std::vector<bool> StepSchedule::listed(const std::vector<int>& computed) const {
    std::vector<bool> marks(computed.size(), false);
    for (const int step : parameters_.refresh_steps) {
        const auto at = std::lower_bound(computed.begin(), computed.end(), step);
        if (at != computed.end()) marks[static_cast<std::size_t>(at - computed.begin())] = true;
    }
    return marks;
}

std::vector<bool> StepSchedule::placed(const std::vector<int>& computed, const Drift& drift) const {
    const auto sigma = [&](std::size_t i) {
        return i < computed.size()
                   ? static_cast<double>(sigmas_[static_cast<std::size_t>(computed[i])])
                   : static_cast<double>(drift.last_sigma);
    };
    std::vector<RefreshStep> steps;
    for (std::size_t i = 0; i < computed.size(); ++i) {
        // With fresh noise every step predicts the whole clip anew: all weigh the same.
        const double way = drift.fresh_noise ? 1 : sigma(i) - sigma(i + 1);
        const bool dense = computed[i] < *parameters_.dense_steps;
        steps.push_back({dense ? 0 : way, drift_at(*drift.curve, sigma(i))});
    }
    const int count =
        parameters_.refreshes.value_or(usual_refreshes(static_cast<int>(computed.size())));
    std::vector<bool> marks(computed.size(), false);
    for (const int i : place_refreshes(steps, count)) {
        marks[static_cast<std::size_t>(i)] = true;
    }
    return marks;
}

bool StepSchedule::layer_is_dense(int layer) const {
    return parameters_.kind != AttentionKind::sparse || layer < parameters_.dense_layers;
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
    const int slots = history_slots(*parameters_.ssar);
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
