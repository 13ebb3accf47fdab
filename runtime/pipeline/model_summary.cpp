#include "pipeline/model_summary.hpp"

#include "format/model_file.hpp"

namespace quantsparse::pipeline {

ModelSummary summary_of(const format::ModelBundle& bundle, const Recipe& recipe) {
    ModelSummary summary;
    summary.architecture = bundle.architecture;
    summary.quantization = bundle.quantization.name();
    summary.warnings = bundle.warnings;
    for (const Expert& expert : recipe.experts) {
        const format::LinearBytes bytes = format::linear_bytes(bundle.at(expert.role));
        summary.transformer_linear_bytes += bytes.stored;
        summary.transformer_linear_bf16_bytes += bytes.bf16;
    }
    const format::GenerationDefaults& defaults = bundle.defaults;
    summary.native_width = defaults.native_width;
    summary.native_height = defaults.native_height;
    summary.native_frames = defaults.native_frames;
    summary.fps = defaults.fps;
    summary.default_steps = defaults.steps;
    summary.default_guidance_scale = defaults.guidance_scale;
    summary.default_flow_shift = defaults.flow_shift;
    summary.default_sampler = defaults.sampler;
    return summary;
}

}  // namespace quantsparse::pipeline
