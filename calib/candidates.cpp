#include "calib/candidates.hpp"

#include <algorithm>

#include "calib/sample_selection.hpp"
#include "calib/sensitivity.hpp"

namespace quantsparse::calib {
namespace {

constexpr int kObservedBlocks = 4;  // the last ones, as QuantVGGT's code has it
constexpr int kClusters = 5;

/// Mean over the places of the cosine between a frame's features and the first frame's.
std::vector<double> frame_similarities(const BlockState& state) {
    const auto frames = state.grid[0];
    const auto x = state.x.reshape({frames, -1, state.x.size(1)});
    const auto unit = x / x.norm(2, at::IntArrayRef{2}, true).clamp_min(1e-12);
    std::vector<double> similarities;
    for (std::int64_t f = 1; f < frames; ++f) {
        similarities.push_back((unit[f] * unit[0]).sum(1).mean().item<double>());
    }
    return similarities;
}

}  // namespace

Candidates::Candidates(const format::Component& transformer, const CalibrationOptions& options,
                       std::size_t inputs, std::size_t branches)
    : component_(transformer),
      options_(options),
      selection_(method_of(options).selection),
      inputs_(inputs),
      branches_(branches),
      step_(inputs) {}

void Candidates::observe(std::size_t input, int block, const BlockState& state) {
    const int blocks = static_cast<int>(component_.network.blocks.size());
    if (selection_ != SampleSelection::diverse || block < blocks - kObservedBlocks) {
        return;
    }
    auto& candidate = step_[input];
    candidate.statistics.push_back(state.x.mean().item<double>());
    candidate.statistics.push_back(state.x.std().item<double>());
    if (block == blocks - 1) {
        candidate.similarities = frame_similarities(state);
    }
}

void Candidates::end_step(const Transformer& transformer, std::vector<TransformerInput> inputs,
                          const std::vector<at::Tensor>& predictions) {
    if (selection_ == SampleSelection::salient) {
        const auto changes = output_changes(component_, transformer, quantization_of(options_),
                                            inputs, predictions, options_.threads);
        for (std::size_t i = 0; i < inputs_; ++i) {
            step_[i].change = changes[i];
        }
    }
    for (std::size_t i = 0; i < inputs_; ++i) {
        step_[i].input = std::move(inputs[i]);
        all_.push_back(std::move(step_[i]));
    }
    step_.assign(inputs_, {});
}

SampleChoice Candidates::choice_of(std::size_t index) const {
    const auto input = index % inputs_;
    return {static_cast<int>(input / branches_), static_cast<int>(index / inputs_),
            static_cast<int>(input % branches_)};
}

const TransformerInput& Candidates::input_of(const SampleChoice& choice) const {
    return all_
        .at(static_cast<std::size_t>(choice.step) * inputs_ +
            static_cast<std::size_t>(choice.clip) * branches_ +
            static_cast<std::size_t>(choice.branch))
        .input;
}

std::vector<std::size_t> Candidates::salient(const std::vector<std::size_t>& allowed,
                                             std::size_t count,
                                             const std::vector<at::Tensor>& last) const {
    std::vector<double> scores;
    for (const auto index : allowed) {
        const auto& now = all_[index].input.latent;
        const auto next = index + inputs_;
        const auto& later = next < all_.size()
                                ? all_[next].input.latent
                                : last.at(static_cast<std::size_t>(choice_of(index).clip));
        const double moved = (later - now).norm().item<double>() / now.norm().item<double>();
        scores.push_back(moved * all_[index].change);
    }
    return highest(scores, count);
}

std::vector<std::size_t> Candidates::diverse(const std::vector<std::size_t>& allowed,
                                             std::size_t count) const {
    std::vector<bool> usual(allowed.size(), true);
    for (std::size_t s = 0; s < all_.front().statistics.size(); ++s) {
        std::vector<double> values;
        for (const auto index : allowed) {
            values.push_back(all_[index].statistics[s]);
        }
        const auto inside = inside_quartiles(values);
        std::transform(usual.begin(), usual.end(), inside.begin(), usual.begin(),
                       [](bool a, bool b) { return a && b; });
    }
    std::vector<std::size_t> kept;
    std::vector<std::vector<double>> vectors;
    for (std::size_t i = 0; i < allowed.size(); ++i) {
        if (usual[i]) {
            kept.push_back(i);
            vectors.push_back(all_[allowed[i]].similarities);
        }
    }
    std::vector<std::size_t> chosen;
    for (const auto i : from_each_cluster(cluster(vectors, kClusters), count)) {
        chosen.push_back(kept[i]);
    }
    return chosen;
}

std::vector<SampleChoice> Candidates::choose(std::size_t count,
                                             const std::vector<SampleChoice>& held_out,
                                             const std::vector<at::Tensor>& last) const {
    std::vector<std::size_t> allowed;
    for (std::size_t i = 0; i < all_.size(); ++i) {
        if (std::find(held_out.begin(), held_out.end(), choice_of(i)) == held_out.end()) {
            allowed.push_back(i);
        }
    }
    const auto chosen = selection_ == SampleSelection::salient ? salient(allowed, count, last)
                                                               : diverse(allowed, count);
    std::vector<SampleChoice> choices;
    for (const auto i : chosen) {
        choices.push_back(choice_of(allowed[i]));
    }
    return choices;
}

}  // namespace quantsparse::calib
