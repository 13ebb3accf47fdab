#include "calib/learn_block.hpp"

#include <cmath>
#include <numeric>
#include <random>

#include "calib/attention.hpp"
#include "calib/band.hpp"
#include "calib/distillation.hpp"
#include "calib/progress.hpp"
#include "calib/token_error.hpp"

namespace quantsparse::calib {
namespace {

/// What the quantised block is compared with, for one sample.
struct Target {
    at::Tensor y;
    at::Tensor pooled;   ///< [heads, L~, L~]
    at::Tensor salient;  ///< int64 [k]
    at::Tensor rows;     ///< half [heads, k, L], of the salient queries
    at::Tensor frames;   ///< [F, F], frame similarities
    at::Tensor weights;  ///< of the tokens in the output's error; undefined: equal
    BandMask mask;       ///< of the quantised block's self-attention
};

/// softmax of the similarities of the frames of y [F P, d], rows normalised (method 7.1, TMD).
at::Tensor frame_similarities(const at::Tensor& y, std::int64_t frames) {
    const auto rows = y.reshape({frames, -1});
    const auto unit = rows / rows.norm(2, 1, true).clamp_min(1e-12);
    return at::softmax(at::matmul(unit, unit.t()), 1);
}

class Reconstruction {
  public:
    Reconstruction(const Transformer& transformer, const BlockWeights& weights, int block,
                   const SampleSet& samples, const CalibrationOptions& options,
                   const LearnableBlock& learnable)
        : transformer_(transformer),
          weights_(weights),
          samples_(samples),
          options_(options.learning),
          method_(method_of(options)),
          inputs_(block_inputs(options)),
          learnable_(learnable) {
        random_.seed(options.seed * 1000003 + static_cast<std::uint64_t>(block));
        const at::NoGradGuard no_gradients;
        for (const auto& state : samples.states) {
            check_cancelled();
            targets_.push_back(target_of(state));
        }
    }

    struct Terms {
        at::Tensor output, global, local, temporal;
    };

    Terms terms(std::size_t i) const {
        const auto& target = targets_[i];
        auto input = samples_.states[i];
        if (inputs_ == BlockInputs::quantized) {
            input.x = samples_.quantized[i];
        }
        Terms terms;
        BlockMethods methods;
        methods.project = [&](std::string_view group, const at::Tensor& rows) {
            return learnable_.project(group, rows);
        };
        methods.self_attention = [&](const at::Tensor& q, const at::Tensor& k,
                                     const at::Tensor& v) {
            if (target.pooled.defined()) {
                terms.global = map_error(pooled_map(q, k, stride(q.size(0))), target.pooled);
            }
            if (target.rows.defined()) {
                const auto map = attention_rows(q.index_select(0, target.salient), k, target.mask,
                                                target.salient);
                terms.local = map_error(map, target.rows.to(at::kFloat));
            }
            return attention(q, k, v, target.mask);
        };
        const auto y = transformer_.run_block(weights_, input, methods);
        terms.output = token_error(y, target.y, target.weights);
        if (target.frames.defined()) {
            const auto similarities = frame_similarities(y, input.grid[0]);
            terms.temporal = (target.frames * (target.frames / similarities).log()).sum(1).mean();
        }
        return terms;
    }

    /// Means over the samples held out.
    BlockLosses held_out() const {
        const at::NoGradGuard no_gradients;
        BlockLosses sums;
        const auto count = static_cast<double>(samples_.states.size() - samples_.training);
        for (auto i = samples_.training; i < samples_.states.size(); ++i) {
            const auto value = [&](const at::Tensor& term) {
                return term.defined() ? term.item<double>() / count : 0.0;
            };
            const auto all = terms(i);
            sums.output += value(all.output);
            sums.global += value(all.global);
            sums.local += value(all.local);
            sums.temporal += value(all.temporal);
        }
        return sums;
    }

    std::vector<std::size_t> shuffled_samples() {
        std::vector<std::size_t> order(samples_.training);
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::shuffle(order.begin(), order.end(), random_);
        return order;
    }

  private:
    std::int64_t stride(std::int64_t tokens) const {
        return options_.stride > 0 ? options_.stride : default_stride(tokens);
    }

    Target target_of(const BlockState& state) {
        Target target;
        const bool global =
            method_.distill == Distillation::global || method_.distill == Distillation::msad;
        const bool local =
            method_.distill == Distillation::local || method_.distill == Distillation::msad;
        BlockMethods methods;
        methods.project = [&](std::string_view group, const at::Tensor& rows) {
            return project_exactly(weights_, group, rows);
        };
        methods.self_attention = [&](const at::Tensor& q, const at::Tensor& k,
                                     const at::Tensor& v) {
            const auto tokens = q.size(0);
            if (options_.attention == CalibAttention::sparse) {
                target.mask = choose_band(q, k, v, state.grid, options_.density);
            }
            if (method_.token_weights) {
                target.weights = token_weights(received_attention(q, k));
            }
            if (global) {
                target.pooled = pooled_map(q, k, stride(tokens));
            }
            if (local) {
                const auto count =
                    options_.salient_count > 0 ? options_.salient_count : default_salient(tokens);
                target.salient =
                    salient_tokens(options_.saliency == Saliency::salient ? received_attention(q, k)
                                                                          : random_scores(tokens),
                                   count);
                target.rows = attention_rows(q.index_select(0, target.salient), k).to(at::kHalf);
            }
            return attention(q, k, v);
        };
        target.y = transformer_.run_block(weights_, state, methods);
        if (method_.temporal_loss) {
            target.frames = frame_similarities(target.y, state.grid[0]);
        }
        return target;
    }

    at::Tensor random_scores(std::int64_t tokens) {
        auto scores = at::empty({tokens}, at::kDouble);
        std::uniform_real_distribution<double> uniform;
        for (std::int64_t i = 0; i < tokens; ++i) {
            scores.data_ptr<double>()[i] = uniform(random_);
        }
        return scores;
    }

    const Transformer& transformer_;
    const BlockWeights& weights_;
    const SampleSet& samples_;
    const LearningOptions& options_;
    const Method method_;
    const BlockInputs inputs_;
    const LearnableBlock& learnable_;
    std::mt19937_64 random_;
    std::vector<Target> targets_;
};

/// lambda so that lambda * loss = ratio * output error at the start (method 3.4), unless given.
double effective_lambda(double given, double ratio, double output, double loss) {
    if (given >= 0) {
        return given;
    }
    return loss > 0 ? ratio * output / loss : 0.0;
}

constexpr double kTemporalWeight = 100.0;  // Q-VDiT's

}  // namespace

LearningReport learn_block(const Transformer& transformer, const BlockWeights& weights, int block,
                           const CollectedActivations& activations, const SampleSet& samples,
                           const CalibrationOptions& options, LearnableBlock& learnable) {
    Reconstruction reconstruction(transformer, weights, block, samples, options, learnable);
    const auto& learning = options.learning;
    LearningReport report;
    const auto measure = [&] {
        {
            const at::NoGradGuard no_gradients;
            learnable.refresh();
        }
        learnable.correct_biases(block, activations);
        return reconstruction.held_out();
    };
    report.start = report.best = measure();
    report.lambda_global = effective_lambda(learning.lambda_global, learning.balance,
                                            report.start.output, report.start.global);
    report.lambda_local = effective_lambda(learning.lambda_local, learning.balance,
                                           report.start.output, report.start.local);
    const auto total = [&](const BlockLosses& losses) {
        return losses.output + report.lambda_global * losses.global +
               report.lambda_local * losses.local + kTemporalWeight * losses.temporal;
    };
    const bool plain_loss = method_of(options).plain_loss;
    auto best = learnable.snapshot();
    AdamW optimizer(learnable.parameters());
    const int steps = learning.epochs * static_cast<int>(samples.training);
    int step = 0;
    for (int epoch = 1; epoch <= learning.epochs; ++epoch) {
        for (const auto i : reconstruction.shuffled_samples()) {
            check_cancelled();
            learnable.refresh();
            const auto terms = reconstruction.terms(i);
            auto loss = terms.output;
            if (terms.global.defined()) {
                loss = loss + report.lambda_global * terms.global;
            }
            if (terms.local.defined()) {
                loss = loss + report.lambda_local * terms.local;
            }
            if (terms.temporal.defined()) {
                loss = loss + kTemporalWeight * terms.temporal;
            }
            // Samples of early steps have errors many times those of late ones.
            (plain_loss ? loss : loss / loss.detach().clamp_min(1e-30)).backward();
            optimizer.step(cosine_factor(step++, steps));
        }
        const auto losses = measure();
        if (total(losses) < total(report.best)) {
            report.best = losses;
            report.best_epoch = epoch;
            best = learnable.snapshot();
        }
    }
    learnable.restore(best);
    return report;
}

}  // namespace quantsparse::calib
