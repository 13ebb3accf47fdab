#include "block.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "configurations.hpp"
#include "models/wan_dit.hpp"
#include "pipeline/stages.hpp"
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
    attention.dense_steps = 0;
    attention.dense_layers = 0;
    const std::vector<float> sigmas(static_cast<std::size_t>(2 * attention.refresh_interval), 1.0f);
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
    pipeline::LatentShape latent;
    attention::StepSchedule schedule;
    program::Program program;
    std::unique_ptr<models::WanDit> dit;
    StagePlan plan;

    Network(Device& device, const ModelOptions& options_in)
        : options(options_in),
          schedule(two_periods(options.attention)),
          program(limits_of(device, options)) {
        const format::ModelBundle bundle = configurations(options);
        const auto& config = bundle.transformer_config;
        const TokenGrid grid = token_grid(options.tokens);
        latent = {config.in_dim, grid.frames, grid.rows * config.patch_size[1],
                  grid.columns * config.patch_size[2]};
        auto dit_options =
            pipeline::dit_options(bundle, latent, 1, options.storage == Storage::half, &schedule);
        dit_options.layers = options.layers;
        dit_options.transforms.rotated = dit_options.transforms.scaled =
            options.weight_bits < 16 && options.rotated;
        dit = std::make_unique<models::WanDit>(program, dit_options);
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
    const models::Matrix context = n.dit->context();
    const auto write = [&](program::Tensor tensor, const std::vector<float>& values) {
        executor_->write_values(tensor, std::span<const float>(values));
    };
    write(context.tensor, noise(static_cast<std::size_t>(context.bytes() / 4)));
    write(n.dit->latent(), noise(n.latent.count()));
    write(n.dit->sinusoid(), n.dit->time_sinusoid(500.0));
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
    executor_->run(network_->dit->text_phase(0));
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
        executor_->read_values<float>(network_->dit->velocity(0), network_->latent.count());
    if (!std::all_of(velocity.begin(), velocity.end(), [](float v) { return std::isfinite(v); })) {
        throw Error(ErrorCode::non_finite,
                    "the block's output is not finite: run quantsparse-selftest on this device");
    }
}

}  // namespace quantsparse::bench
