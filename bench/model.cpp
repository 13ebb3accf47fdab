#include "model.hpp"

#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>

#include "attention/step_schedule.hpp"
#include "format/config_json.hpp"
#include "pipeline/stages.hpp"
#include "quantsparse/error.hpp"
#include "report.hpp"

namespace quantsparse::bench {
namespace {

namespace fs = std::filesystem;

nlohmann::json read_config(const fs::path& file) {
    std::ifstream in(file, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) {
        throw Error(ErrorCode::io,
                    fmt::format("cannot read the configuration '{}': name wan-1.3b, wan-14b, a "
                                "transformer's config.json or a diffusers folder",
                                file.string()));
    }
    return format::parse_json_object(text.str(), file.string());
}

/// The three networks' configurations; no weights are opened.
format::ModelBundle configurations(const ModelOptions& options) {
    format::ModelBundle bundle;
    format::set_released_latent_statistics(bundle.vae_config);
    bundle.weight_bits = options.weight_bits;
    bundle.activation_bits = options.weight_bits < 16 ? options.activation_bits : 16;
    auto& dit = bundle.transformer_config;
    if (options.config == "wan-14b") {
        dit.dim = 5120;
        dit.ffn_dim = 13824;
        dit.num_heads = 40;
        dit.num_layers = 40;
    } else if (options.config != "wan-1.3b") {
        const fs::path path = options.config;
        const bool folder = fs::is_directory(path);
        const fs::path file = folder ? path / "transformer" / "config.json" : path;
        dit = format::wan_dit_config_from_json(read_config(file), file.string());
        if (folder) {
            const fs::path text = path / "text_encoder" / "config.json";
            const fs::path vae = path / "vae" / "config.json";
            bundle.text_encoder_config =
                format::umt5_config_from_json(read_config(text), text.string());
            bundle.vae_config = format::wan_vae_config_from_json(read_config(vae), vae.string());
        }
    }
    return bundle;
}

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

Json config_json(const ModelOptions& options, const format::WanDitConfig& dit) {
    return {{"name", options.config},
            {"dim", dit.dim},
            {"ffn_dim", dit.ffn_dim},
            {"num_heads", dit.num_heads},
            {"num_layers", dit.num_layers},
            {"weight_bits", options.weight_bits},
            {"activation_bits", options.weight_bits < 16 ? options.activation_bits : 16},
            {"rotated", options.weight_bits < 16 && options.rotated},
            {"storage", options.storage == Storage::half ? "half" : "fp32"}};
}

std::string bits_text(const ModelOptions& options) {
    if (options.weight_bits >= 16) return "floating-point weights";
    return fmt::format("W{}A{}{}", options.weight_bits, options.activation_bits,
                       options.rotated ? ", rotated" : "");
}

/// Largest divisor of `value` that is at most `limit`.
int divisor_up_to(int value, double limit) {
    for (int d = static_cast<int>(limit + 1e-9); d > 1; --d) {
        if (value % d == 0) return d;
    }
    return 1;
}

/// Values in [-1, 1), the same on every machine.
std::vector<float> noise(std::size_t count) {
    std::vector<float> values(count);
    std::uint32_t state = 12345;
    for (float& value : values) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
    }
    return values;
}

/// Matrix products and attention alone: what "operations a second" counts.
double product_work(const program::Program& program, std::uint32_t phase) {
    using shaders::ShaderId;
    double work = 0;
    for (const program::Operation& operation : program.operations()) {
        const bool elementwise =
            operation.shader == ShaderId::elementwise || operation.shader == ShaderId::permute ||
            operation.shader == ShaderId::norm_rows || operation.shader == ShaderId::split_heads ||
            operation.shader == ShaderId::quantize_rows;
        if (operation.phase == phase && !elementwise) work += operation.work;
    }
    return work;
}

}  // namespace

void run_model_plan(const ModelOptions& options) {
    const format::ModelBundle bundle = configurations(options);
    const pipeline::LatentShape latent = latent_shape(options, bundle);
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
    AttentionParameters attention = options.attention;
    attention.dense_steps = attention::resolved_dense_steps(attention, kSteps);
    const attention::StepSchedule schedule(attention, sigmas);
    auto dit_options = pipeline::dit_options(bundle, latent, branches,
                                             options.storage == Storage::half, &schedule);
    dit_options.transforms.rotated = dit_options.transforms.scaled =
        options.weight_bits < 16 && options.rotated;
    const auto [plan, residency, tile] = pipeline::plan_stages(limits, bundle, dit_options, budget);
    const auto& patch = bundle.transformer_config.patch_size;
    const int tokens = latent.frames * (latent.height / patch[1]) * (latent.width / patch[2]);

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
                              {"least_bytes", plan.least_bytes},
                              {"budget_bytes", budget},
                              {"fits", plan.fits()},
                              {"decision", plan.decision()}});
}

void run_model_block(const ModelOptions& options) {
    using Clock = std::chrono::steady_clock;
    const format::ModelBundle bundle = configurations(options);
    const auto& config = bundle.transformer_config;
    const int grid_frames = divisor_up_to(options.tokens, std::cbrt(options.tokens));
    const int grid_rows =
        divisor_up_to(options.tokens / grid_frames, std::sqrt(options.tokens / grid_frames));
    const int grid_columns = options.tokens / grid_frames / grid_rows;
    const pipeline::LatentShape latent{config.in_dim, grid_frames, grid_rows * config.patch_size[1],
                                       grid_columns * config.patch_size[2]};
    auto dit_options = pipeline::dit_options(bundle, latent, 1, options.storage == Storage::half);
    dit_options.layers = 1;
    dit_options.transforms.rotated = dit_options.transforms.scaled =
        options.weight_bits < 16 && options.rotated;

    Device device(options.device);
    if (options.profile && !device.info().timestamps) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("{} has no timestamps: leave --profile out", device.info().name));
    }
    program::Limits limits = pipeline::device_limits(device.internal());
    if (options.binding_limit) limits.max_binding_bytes = options.binding_limit;
    program::Program program(limits);
    const models::WanDit dit(program, dit_options);
    const StagePlan plan = pipeline::stage_plan("dit", program);
    const std::uint64_t budget = device.internal().memory_budget();
    if (budget && plan.total_bytes() > budget) {
        throw Error(ErrorCode::out_of_memory,
                    fmt::format("one block of {} at {} tokens needs {}, the device allows {}: "
                                "lower --tokens",
                                options.config, options.tokens, bytes_text(plan.total_bytes()),
                                bytes_text(budget)));
    }
    program::Executor executor(device.internal(), program, options.profile);
    dit.weights().upload(executor, {});
    const models::Matrix context = dit.context();
    const auto write = [&](program::Tensor tensor, const std::vector<float>& values) {
        executor.write_values(tensor, std::span<const float>(values));
    };
    write(context.tensor, noise(static_cast<std::size_t>(context.bytes() / 4)));
    write(dit.latent(), noise(latent.count()));
    write(dit.sinusoid(), dit.time_sinusoid(500.0));
    executor.run(dit.text_phase(0));
    // The first run compiles pipelines, the second one is cut anew by measured speed.
    for (int i = 0; i < 2; ++i) executor.run(dit.step_phase(0));
    std::vector<double> seconds;
    for (int i = 0; i < options.repeats; ++i) {
        const auto start = Clock::now();
        executor.run(dit.step_phase(0));
        seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    const auto velocity = executor.read_values<float>(dit.velocity(0), latent.count());
    if (!std::all_of(velocity.begin(), velocity.end(), [](float v) { return std::isfinite(v); })) {
        throw Error(ErrorCode::non_finite,
                    "the block's output is not finite: run quantsparse-selftest on this device");
    }
    std::sort(seconds.begin(), seconds.end());
    const double fastest = seconds.front(), median = seconds[seconds.size() / 2];
    const double work = product_work(program, dit.step_phase(0));
    const char* arithmetic = arithmetic_name(device.arithmetic());

    fmt::print("device {} ({}), arithmetic {}\n", device.info().name, device.info().driver,
               arithmetic);
    fmt::print("{}, {}, storage {}, one block with embeddings and head, {} tokens ({}x{}x{})\n",
               options.config, bits_text(options),
               options.storage == Storage::half ? "half" : "fp32", options.tokens, grid_frames,
               grid_rows, grid_columns);
    fmt::print("seconds   min {:.4f}, median {:.4f} of {}\n", fastest, median, options.repeats);
    fmt::print(
        "GOPS      {:.1f} at the min, {:.1f} at the median ({:.1f} G in matrix products and "
        "attention)\n",
        work / fastest * 1e-9, work / median * 1e-9, work * 1e-9);
    fmt::print("memory    weights {}, activations {}\n", bytes_text(plan.weight_bytes),
               bytes_text(plan.activation_bytes));
    if (!options.profile) {
        fmt::print("longest submission {:.3f} s\n", executor.longest_submission_seconds());
    }
    Json operations = Json::array();
    if (options.profile) {
        fmt::print("\n{:<44}{:>8}{:>14}\n", "operation", "calls", "ms in all");
        for (const auto& operation : executor.profile()) {
            fmt::print("{:<44}{:>8}{:>14.2f}\n", operation.name, operation.calls,
                       operation.milliseconds);
            operations.push_back({{"operation", operation.name},
                                  {"calls", operation.calls},
                                  {"milliseconds", operation.milliseconds}});
        }
    }
    if (options.json.empty()) return;
    Json json = {{"config", config_json(options, config)},
                 {"tokens", options.tokens},
                 {"grid", {grid_frames, grid_rows, grid_columns}},
                 {"device", device.info().name},
                 {"driver", device.info().driver},
                 {"arithmetic", arithmetic},
                 {"repeats", options.repeats},
                 {"seconds_min", fastest},
                 {"seconds_median", median},
                 {"operations", work},
                 {"gops_at_min", work / fastest * 1e-9},
                 {"gops_at_median", work / median * 1e-9},
                 {"weight_bytes", plan.weight_bytes},
                 {"activation_bytes", plan.activation_bytes}};
    if (options.profile) {
        json["profile"] = operations;
    } else {
        json["longest_submission_seconds"] = executor.longest_submission_seconds();
    }
    write_json(options.json, json);
}

}  // namespace quantsparse::bench
