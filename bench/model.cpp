#include "model.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "attention/step_schedule.hpp"
#include "configurations.hpp"
#include "format/clip_geometry.hpp"
#include "pipeline/planning.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

models::LatentShape latent_shape(const ModelOptions& options,
                                 const format::ClipGeometry& geometry) {
    if (options.width % geometry.width_multiple() || options.height % geometry.height_multiple()) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("--size {}x{}: the width must be a multiple of {}, the height of {}",
                        options.width, options.height, geometry.width_multiple(),
                        geometry.height_multiple()));
    }
    if (!geometry.fits_frames(options.frames)) {
        throw Error(
            ErrorCode::invalid_argument,
            fmt::format("--frames {}: use {}n + 1, for example {}", options.frames, geometry.time,
                        (options.frames - 1) / geometry.time * geometry.time + 1));
    }
    const auto [channels, frames, height, width] =
        geometry.latent(options.width, options.height, options.frames);
    return {channels, frames, height, width};
}

}  // namespace

void run_model_plan(const ModelOptions& options) {
    const format::ModelBundle bundle = configurations(options);
    const auto& recipe = pipeline::recipe_of(bundle.architecture);
    const format::ClipGeometry geometry =
        format::clip_geometry(transformer_of(bundle).network, bundle.network(recipe.vae));
    const models::LatentShape latent = latent_shape(options, geometry);
    program::Limits limits;
    std::uint64_t budget = options.device.memory_limit;
    std::string device_name = "none: limits of 128 MiB a binding, 2 GiB an allocation";
    if (!options.without_device) {
        const Device device(options.device);
        limits = pipeline::device_limits(device.internal());
        budget = device.internal().memory_budget();
        device_name = fmt::format("{} ({})", device.info().name, device.info().driver);
    }
    if (options.binding_limit) limits.max_binding_bytes = options.binding_limit;

    const int branches = options.guidance ? 2 : 1;
    constexpr int kSteps = 50;  // all kinds of steps occur
    const std::vector<float> sigmas(kSteps, 1.0f);
    const attention::StepSchedule schedule(periodic(options.attention), sigmas);
    const std::vector<models::DenoisingOptions> transformers(
        recipe.experts.size(), transformer_options(options, bundle, latent, branches, schedule));
    const auto [plan, residency, tile] =
        pipeline::plan_stages(limits, bundle, transformers, budget);
    const int tokens =
        geometry.tokens({latent.channels, latent.frames, latent.height, latent.width});

    fmt::print("device {}\n", device_name);
    fmt::print("{}, {}, {}x{}, {} frames, {} tokens, {} branch{}\n", options.config,
               bits_text(options), options.width, options.height, options.frames, tokens, branches,
               branches == 1 ? "" : "es");
    fmt::print("VAE tiles of {}x{} of {}x{} latent cells\n\n", tile.width, tile.height,
               latent.width, latent.height);
    fmt::print("{:<14}{:>12}{:>13}{:>12}{:>12}{:>12}{:>12}{:>17}{:>12}\n", "stage", "weights",
               "activations", "residuals", "staging", "total", "host", "largest binding",
               "operations");
    Json stages = Json::array();
    std::uint64_t largest_binding = 0;
    for (const StagePlan& stage : plan.stages) {
        fmt::print("{:<14}{:>12}{:>13}{:>12}{:>12}{:>12}{:>12}{:>17}{:>12}\n", stage.stage,
                   bytes_text(stage.weight_bytes), bytes_text(stage.activation_bytes),
                   bytes_text(stage.residual_bytes), bytes_text(stage.staging_bytes),
                   bytes_text(stage.total_bytes()), bytes_text(stage.host_bytes),
                   bytes_text(stage.largest_binding_bytes), stage.operations);
        stages.push_back({{"stage", stage.stage},
                          {"weight_bytes", stage.weight_bytes},
                          {"activation_bytes", stage.activation_bytes},
                          {"residual_bytes", stage.residual_bytes},
                          {"staging_bytes", stage.staging_bytes},
                          {"host_bytes", stage.host_bytes},
                          {"residency", stage.residency},
                          {"peak_bytes", stage.total_bytes()},
                          {"largest_binding_bytes", stage.largest_binding_bytes},
                          {"operations", stage.operations}});
        largest_binding = std::max(largest_binding, stage.largest_binding_bytes);
    }
    fmt::print("\npeak {} (stages run one after another); largest binding {} of {}\n",
               bytes_text(plan.peak_bytes), bytes_text(largest_binding),
               bytes_text(limits.max_binding_bytes));
    fmt::print("{}\n", plan.decision());
    if (budget) {
        fmt::print("{}; the least that works is {}\n",
                   plan.fits() ? "fits" : "does NOT fit: lower --size or --frames",
                   bytes_text(plan.least_bytes));
    }
    if (options.json.empty()) return;
    write_json(options.json, {{"config", config_json(options, bundle)},
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
                              {"least_bytes", plan.least_bytes},
                              {"budget_bytes", budget},
                              {"fits", plan.fits()},
                              {"decision", plan.decision()}});
}

}  // namespace quantsparse::bench
