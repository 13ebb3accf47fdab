// quantsparse-bench model without --plan: blocks measured.
#include <fmt/format.h>

#include <algorithm>

#include "block.hpp"
#include "configurations.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

std::string attention_text(const AttentionParameters& a) {
    if (a.kind != AttentionKind::sparse) return "dense attention";
    return fmt::format("{:.0f} % of the attention, {}", 100 * a.density.value_or(0.25),
                       a.ssar == SsarMode::off ? "nothing added"
                                               : fmt::format("SSAR, a refresh every {} steps",
                                                             *periodic(a).refresh_interval));
}

}  // namespace

void run_model_block(const ModelOptions& options) {
    Device device(options.device);
    if (options.profile && !device.info().timestamps) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("{} has no timestamps: leave --profile out", device.info().name));
    }
    Block block(device, options);
    const TokenGrid grid = token_grid(options.tokens);
    fmt::print("device {} ({}), arithmetic {}\n", device.info().name, device.info().driver,
               arithmetic_name(device.arithmetic()));
    fmt::print(
        "{}, {}, storage {}, {} with embeddings and head, {} tokens ({}x{}x{}), {}\n",
        options.config, bits_text(options), options.storage == Storage::half ? "half" : "fp32",
        options.layers == 1 ? "one block"
        : options.layers    ? fmt::format("{} blocks", options.layers)
                            : "all blocks",
        options.tokens, grid.frames, grid.rows, grid.columns, attention_text(options.attention));
    std::fflush(stdout);
    block.warm_up();
    std::vector<std::vector<double>> seconds(block.kinds().size());
    for (int i = 0; i < options.repeats; ++i) {
        for (std::size_t k = 0; k < seconds.size(); ++k) {
            seconds[k].push_back(block.run(block.kinds()[k]));
        }
    }
    block.check_finite();

    Json json = {{"config", config_json(options, configurations(options))},
                 {"tokens", options.tokens},
                 {"grid", {grid.frames, grid.rows, grid.columns}},
                 {"layers", options.layers},
                 {"attention", attention_text(options.attention)},
                 {"device", device.info().name},
                 {"driver", device.info().driver},
                 {"arithmetic", arithmetic_name(device.arithmetic())},
                 {"repeats", options.repeats}};
    std::vector<double> fastest, median;
    for (std::size_t k = 0; k < seconds.size(); ++k) {
        const auto kind = block.kinds()[k];
        std::sort(seconds[k].begin(), seconds[k].end());
        fastest.push_back(seconds[k].front());
        median.push_back(seconds[k][seconds[k].size() / 2]);
        const double work = block.work(kind);
        fmt::print(
            "{:<8} step: min {:.4f} s, median {:.4f} s of {}; {:.1f} GOPS at the min ({:.1f} "
            "G in matrix products and attention)\n",
            step_kind_name(kind), fastest[k], median[k], options.repeats, work / fastest[k] * 1e-9,
            work * 1e-9);
        json["steps"].push_back({{"kind", step_kind_name(kind)},
                                 {"seconds_min", fastest[k]},
                                 {"seconds_median", median[k]},
                                 {"operations", work},
                                 {"gops_at_min", work / fastest[k] * 1e-9}});
    }
    if (seconds.size() > 1) {
        fmt::print("mean of a refresh period: {:.4f} s of the minima, {:.4f} s of the medians\n",
                   period_mean(options.attention, block.kinds(), fastest),
                   period_mean(options.attention, block.kinds(), median));
    }
    json["period_seconds_min"] = period_mean(options.attention, block.kinds(), fastest);
    json["period_seconds_median"] = period_mean(options.attention, block.kinds(), median);

    const StagePlan& plan = block.plan();
    fmt::print("memory    weights {}, activations {}, residuals {}\n",
               bytes_text(plan.weight_bytes), bytes_text(plan.activation_bytes),
               bytes_text(plan.residual_bytes));
    json["weight_bytes"] = plan.weight_bytes;
    json["activation_bytes"] = plan.activation_bytes;
    json["residual_bytes"] = plan.residual_bytes;
    if (options.profile) {
        fmt::print("\n{:<44}{:>8}{:>14}\n", "operation", "calls", "ms in all");
        for (const auto& operation : block.executor().profile()) {
            fmt::print("{:<44}{:>8}{:>14.2f}\n", operation.name, operation.calls,
                       operation.milliseconds);
            json["profile"].push_back({{"operation", operation.name},
                                       {"calls", operation.calls},
                                       {"milliseconds", operation.milliseconds}});
        }
    } else {
        const double longest = block.executor().longest_submission_seconds();
        const double compiling = block.executor().longest_compiling_seconds();
        fmt::print(
            "longest submission {:.3f} s, {:.3f} s with kernels that it was the first to use\n",
            longest, compiling);
        json["longest_submission_seconds"] = longest;
        json["longest_compiling_submission_seconds"] = compiling;
    }
    if (!options.json.empty()) write_json(options.json, json);
}

}  // namespace quantsparse::bench
