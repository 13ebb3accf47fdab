#include "model.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "configurations.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

pipeline::LatentShape latent_shape(const ModelOptions& options, const format::ModelBundle& bundle) {
    const auto& dit = bundle.transformer_config;
    const int cell = models::spatial_factor(bundle.vae_config);
    const int step_y = cell * dit.patch_size[1], step_x = cell * dit.patch_size[2];
    const int step_t = models::temporal_factor(bundle.vae_config);
    if (options.width % step_x || options.height % step_y) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("--size {}x{}: the width must be a multiple of {}, the height of {}",
                        options.width, options.height, step_x, step_y));
    }
    if ((options.frames - 1) % step_t) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("--frames {}: use {}n + 1, for example {}", options.frames, step_t,
                                (options.frames - 1) / step_t * step_t + 1));
    }
    return {dit.in_dim, (options.frames - 1) / step_t + 1, options.height / cell,
            options.width / cell};
}

}  // namespace

void run_model_plan(const ModelOptions& options) {
    const format::ModelBundle bundle = configurations(options);
    const pipeline::LatentShape latent = latent_shape(options, bundle);
    program::Limits limits;
    std::uint64_t budget = options.device.memory_limit;
    std::string device_name = "none: limits of 128 MiB a binding, 1 GiB an allocation";
    if (!options.without_device) {
        const Device device(options.device);
        limits = pipeline::device_limits(device.internal());
        budget = device.internal().memory_budget();
        device_name = fmt::format("{} ({})", device.info().name, device.info().driver);
    }
    if (options.binding_limit) limits.max_binding_bytes = options.binding_limit;

    const int branches = options.guidance ? 2 : 1;
    const bool half = options.storage == Storage::half;
    MemoryPlan plan = pipeline::plan_stages(limits, bundle, latent, branches, half, budget);
    if (options.weight_bits < 16 && options.rotated) {
        // plan_stages learns from a model's weights whether it is rotated; here there are none.
        auto dit_options = pipeline::dit_options(bundle, latent, branches, half);
        dit_options.transforms.rotated = dit_options.transforms.scaled = true;
        program::Program program(limits);
        const models::WanDit dit(program, dit_options);
        for (StagePlan& stage : plan.stages) {
            if (stage.stage == "dit") stage = pipeline::stage_plan("dit", program, true);
        }
        plan.peak_bytes = 0;
        for (const StagePlan& stage : plan.stages) {
            plan.peak_bytes = std::max(plan.peak_bytes, stage.total_bytes());
        }
    }
    const auto tile =
        pipeline::choose_vae_tile(limits, bundle.vae_config, latent.height, latent.width, budget);
    const auto& patch = bundle.transformer_config.patch_size;
    const int tokens = latent.frames * (latent.height / patch[1]) * (latent.width / patch[2]);

    fmt::print("device {}\n", device_name);
    fmt::print("{}, {}, {}x{}, {} frames, {} tokens, {} branch{}\n", options.config,
               bits_text(options), options.width, options.height, options.frames, tokens, branches,
               branches == 1 ? "" : "es");
    fmt::print("VAE tiles of {}x{} of {}x{} latent cells\n\n", tile.width, tile.height,
               latent.width, latent.height);
    fmt::print("{:<14}{:>12}{:>13}{:>12}{:>12}{:>17}{:>12}\n", "stage", "weights", "activations",
               "staging", "total", "largest binding", "operations");
    Json stages = Json::array();
    std::uint64_t largest_binding = 0;
    for (const StagePlan& stage : plan.stages) {
        fmt::print("{:<14}{:>12}{:>13}{:>12}{:>12}{:>17}{:>12}\n", stage.stage,
                   bytes_text(stage.weight_bytes), bytes_text(stage.activation_bytes),
                   bytes_text(stage.staging_bytes), bytes_text(stage.total_bytes()),
                   bytes_text(stage.largest_binding_bytes), stage.operations);
        stages.push_back({{"stage", stage.stage},
                          {"weight_bytes", stage.weight_bytes},
                          {"activation_bytes", stage.activation_bytes},
                          {"staging_bytes", stage.staging_bytes},
                          {"peak_bytes", stage.total_bytes()},
                          {"largest_binding_bytes", stage.largest_binding_bytes},
                          {"operations", stage.operations}});
        largest_binding = std::max(largest_binding, stage.largest_binding_bytes);
    }
    fmt::print("\npeak {} (stages run one after another); largest binding {} of {}\n",
               bytes_text(plan.peak_bytes), bytes_text(largest_binding),
               bytes_text(limits.max_binding_bytes));
    if (budget) {
        fmt::print("budget {}: {}\n", bytes_text(budget),
                   plan.peak_bytes <= budget ? "fits" : "does NOT fit: lower --size or --frames");
    }
    if (options.json.empty()) return;
    write_json(options.json, {{"config", config_json(options, bundle.transformer_config)},
                              {"width", options.width},
                              {"height", options.height},
                              {"frames", options.frames},
                              {"tokens", tokens},
                              {"branches", branches},
                              {"device", device_name},
                              {"binding_limit_bytes", limits.max_binding_bytes},
                              {"stages", stages},
                              {"largest_binding_bytes", largest_binding},
                              {"peak_bytes", plan.peak_bytes},
                              {"budget_bytes", budget}});
}

}  // namespace quantsparse::bench
