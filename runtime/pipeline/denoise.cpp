#include "pipeline/denoise.hpp"

#include <fmt/format.h>

#include "models/registry.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {

models::DenoisingOptions denoising_options(const format::Component& transformer,
                                           const format::Quantization& quantization,
                                           const LatentShape& latent, int branches, bool half,
                                           const attention::StepSchedule* schedule) {
    models::DenoisingOptions options;
    options.quantization = quantization;
    if (quantization.quantized()) {
        options.transforms = models::input_transforms_of(transformer);
        options.lora_ranks = models::lora_ranks_of(transformer);
    }
    options.latent = latent;
    options.branches = branches;
    options.half = half;
    if (schedule) {
        using attention::StepKind;
        options.attention = schedule->parameters();
        options.step_kinds.clear();
        for (const StepKind kind :
             {StepKind::dense, StepKind::refresh, StepKind::sparse, StepKind::reused}) {
            if (schedule->has(kind)) options.step_kinds.push_back(kind);
        }
    }
    return options;
}

Denoiser::Denoiser(vulkan::Device& device, const format::Component& transformer,
                   const models::DenoisingOptions& network_options, const StageOptions& options,
                   const attention::StepSchedule* schedule, const program::Residency& residency,
                   const Between& between)
    : options_(options), program_(device_limits(device)) {
    LatentShape prediction = network_options.latent;
    prediction.channels = transformer.network.geometry.out_channels;
    prediction_count_ = prediction.count();
    network_ = models::denoising_kind(transformer.network)
                   .make(program_, transformer.network, network_options);
    executor_ = std::make_unique<program::Executor>(
        device, program_, static_cast<bool>(options.profile), false, residency);
    if (schedule) schedule_ = *schedule;
    network_->reset(*executor_);
    loaded_ = network_->weights().upload(*executor_, {transformer.checkpoint.get(), 0}, between);
}

Denoiser::~Denoiser() {
    deliver_profile(options_, *executor_);
}

void Denoiser::write(std::string_view input, std::span<const float> values) {
    network_->write(*executor_, input, values);
    written_.emplace(input);
}

bool Denoiser::set_prompt(int branch, const Between& between) {
    return executor_->run(network_->prompt_phase(branch), between);
}

void Denoiser::begin_step(int step) {
    if (!schedule_) return;
    kind_ = schedule_->kind(step);
    const auto* residuals = network_->residuals();
    if (residuals && kind_ != attention::StepKind::reused) {
        const attention::Correction correction = schedule_->correction(step);
        for (int b = 0; b < residuals->branches(); ++b) {
            residuals->write(*executor_, b, correction);
        }
    }
}

std::vector<AttentionLayer> Denoiser::attention_layers() const {
    std::vector<AttentionLayer> layers;
    if (const auto* residuals = network_->residuals()) {
        for (const auto& r : residuals->report(*executor_)) {
            layers.push_back({r.layer, r.branch, r.types, r.flips, r.refused, r.non_finite,
                              network_->chosen_densities(*executor_, r.layer)});
        }
        return layers;
    }
    const int dense = schedule_ ? schedule_->parameters().dense_layers : 0;
    for (int layer = dense; schedule_; ++layer) {
        AttentionLayer chosen;
        chosen.layer = layer;
        chosen.densities = network_->chosen_densities(*executor_, layer);
        if (chosen.densities.empty()) break;
        layers.push_back(std::move(chosen));
    }
    return layers;
}

void Denoiser::require_inputs() const {
    for (const models::NetworkInput& input : network_->inputs()) {
        if (!written_.contains(input.name)) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("the transformer's input '{}' has no values: this version "
                                    "doesn't know where they come from",
                                    input.name));
        }
    }
}

std::vector<float> Denoiser::predict(int branch, std::span<const float> latent, double timestep,
                                     const Between& between) {
    write("latent", latent);
    const float t = static_cast<float>(timestep);
    write("timestep", std::span(&t, 1));
    require_inputs();
    if (!executor_->run(network_->step_phase(branch, kind_), between)) return {};
    return executor_->read_values<float>(network_->prediction(branch), prediction_count_);
}

}  // namespace quantsparse::pipeline
