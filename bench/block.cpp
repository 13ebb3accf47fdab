#include "block.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "configurations.hpp"
#include "models/registry.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using attention::StepKind;

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

/// Two refresh periods, no dense steps before and no layer that stays dense.
attention::StepSchedule two_periods(AttentionParameters attention) {
    attention = periodic(attention);
    attention.dense_steps = 0;
    attention.dense_layers = 0;
    const std::vector<float> sigmas(static_cast<std::size_t>(2 * *attention.refresh_interval),
                                    1.0f);
    return attention::StepSchedule(attention, sigmas);
}

program::Limits limits_of(Device& device, const ModelOptions& options) {
    program::Limits limits = pipeline::device_limits(device.internal());
    if (options.binding_limit) limits.max_binding_bytes = options.binding_limit;
    return limits;
}

}  // namespace

TokenGrid token_grid(int tokens) {
    TokenGrid grid;
    grid.frames = divisor_up_to(tokens, std::cbrt(tokens));
    grid.rows = divisor_up_to(tokens / grid.frames, std::sqrt(tokens / grid.frames));
    grid.columns = tokens / grid.frames / grid.rows;
    return grid;
}

const char* step_kind_name(StepKind kind) {
    switch (kind) {
        case StepKind::refresh:
            return "refresh";
        case StepKind::sparse:
            return "sparse";
        default:
            return "dense";
    }
}

double period_mean(const AttentionParameters& attention, const std::vector<StepKind>& kinds,
                   const std::vector<double>& seconds) {
    const attention::StepSchedule schedule = two_periods(attention);
    const int first = schedule.steps() / 2;
    double sum = 0;
    for (int step = first; step < schedule.steps(); ++step) {
        const auto kind = std::find(kinds.begin(), kinds.end(), schedule.kind(step));
        sum += seconds[static_cast<std::size_t>(kind - kinds.begin())];
    }
    return sum / (schedule.steps() - first);
}

struct Block::Network {
    ModelOptions options;
    format::ModelBundle bundle;
    models::LatentShape latent;
    attention::StepSchedule schedule;
    program::Program program;
    std::unique_ptr<models::DenoisingNetwork> dit;
    StagePlan plan;

    Network(Device& device, const ModelOptions& options_in)
        : options(options_in),
          bundle(configurations(options)),
          schedule(two_periods(options.attention)),
          program(limits_of(device, options)) {
        const TokenGrid grid = token_grid(options.tokens);
        latent = latent_of_tokens(bundle, grid.frames, grid.rows, grid.columns);
        auto dit_options = transformer_options(options, bundle, latent, 1, schedule);
        dit_options.layers = options.layers;
        const format::Network& network = transformer_of(bundle).network;
        dit = models::denoising_kind(network).make(program, network, dit_options);
        plan = pipeline::stage_plan("dit", program);
    }
};

StagePlan Block::plan_of(Device& device, const ModelOptions& options) {
    return Network(device, options).plan;
}

Block::Block(Device& device, const ModelOptions& options)
    : network_(std::make_unique<Network>(device, options)) {
    const Network& n = *network_;
    const std::uint64_t budget = device.internal().memory_budget();
    if (budget && n.plan.total_bytes() > budget) {
        throw Error(
            ErrorCode::out_of_memory,
            fmt::format("the blocks of {} need {} at {} tokens, the device allows {}: lower "
                        "--tokens or --layers",
                        options.config, bytes_text(n.plan.total_bytes()), options.tokens,
                        bytes_text(budget)));
    }
    for (const StepKind kind : {StepKind::dense, StepKind::refresh, StepKind::sparse}) {
        if (n.schedule.has(kind)) kinds_.push_back(kind);
    }
    executor_ = std::make_unique<program::Executor>(device.internal(), n.program, options.profile);
    n.dit->weights().upload(*executor_, {});
    for (const models::NetworkInput& input : n.dit->inputs()) {
        const bool timestep = input.name == "timestep";
        n.dit->write(*executor_, input.name,
                     timestep ? std::vector<float>{500.0f} : noise(input.most_values));
    }
    n.dit->reset(*executor_);
}

Block::~Block() = default;

const StagePlan& Block::plan() const {
    return network_->plan;
}

double Block::work(StepKind kind) const {
    double work = 0;
    for (const program::Operation& operation : network_->program.operations()) {
        const std::string shader = shaders::shader_code(operation.shader).name;
        const bool product = shader.starts_with("gemm") || shader.starts_with("attention");
        if (operation.phase == network_->dit->step_phase(0, kind) && product)
            work += operation.work;
    }
    return work;
}

int Block::step_of(StepKind kind) const {
    for (int step = network_->schedule.steps() / 2; step < network_->schedule.steps(); ++step) {
        if (network_->schedule.kind(step) == kind) return step;
    }
    throw Error(ErrorCode::invalid_argument,
                fmt::format("no step of a period is {}", step_kind_name(kind)));
}

void Block::warm_up() {
    executor_->run(network_->dit->prompt_phase(0));
    // The first run compiles pipelines, the second one is cut anew by measured speed.
    for (const StepKind kind : kinds_) {
        for (int i = 0; i < 2; ++i) run(kind);
    }
}

double Block::run(StepKind kind) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    if (const auto* residuals = network_->dit->residuals()) {
        residuals->write(*executor_, 0, network_->schedule.correction(step_of(kind)));
    }
    executor_->run(network_->dit->step_phase(0, kind));
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void Block::check_finite() const {
    const auto velocity =
        executor_->read_values<float>(network_->dit->prediction(0), network_->latent.count());
    if (!std::all_of(velocity.begin(), velocity.end(), [](float v) { return std::isfinite(v); })) {
        throw Error(ErrorCode::non_finite,
                    "the block's output is not finite: run quantsparse-selftest on this device");
    }
}

}  // namespace quantsparse::bench
