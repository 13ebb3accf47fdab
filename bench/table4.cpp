#include "table4.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "block.hpp"
#include "clip_cost.hpp"
#include "configurations.hpp"
#include "html_report.hpp"
#include "models/registry.hpp"
#include "pipeline/stage.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::bench {
namespace {

using attention::StepKind;

constexpr int kBranches = 2;

struct Row {
    std::string name;
    ModelOptions model;  ///< of one block
    std::uint64_t storage_bytes = 0;
    StagePlan memory;
    /// Seconds of a block, smaller and larger number of tokens, kinds, repeats.
    std::vector<std::vector<double>> seconds[2];
    std::vector<StepKind> kinds;
    double block_seconds = 0;  ///< mean of a period at the larger number, of the minima
    double block_median = 0;
    double clip_seconds = 0;  ///< all steps, layers and branches at the clip's tokens
    /// With SSAR: by how much a period takes longer than the same steps without a correction, each
    /// round's beside its neighbour's.
    std::vector<double> ssar_adds;

    /// Mean over a refresh period of what each kind of step takes.
    double period_mean(const std::vector<double>& of_kinds) const {
        return bench::period_mean(model.attention, kinds, of_kinds);
    }
};

std::vector<Row> rows_of(const Table4Options& options) {
    ModelOptions dense;
    dense.config = options.config;
    dense.storage = options.storage;
    dense.device = options.device;
    dense.weight_bits = 16;
    std::vector<Row> rows(2);
    rows[0].name =
        options.storage == Storage::half ? "16-bit, dense attention" : "fp32, dense attention";
    rows[0].model = dense;
    rows[1].name = "W4A8, dense attention";
    rows[1].model = dense;
    rows[1].model.weight_bits = 4;
    for (const double density : options.densities) {
        Row row = rows[1];
        row.name = fmt::format("W4A8, {:.0f} %, no SSAR", 100 * density);
        row.model.attention.kind = AttentionKind::sparse;
        row.model.attention.density = density;
        row.model.attention.ssar = SsarMode::none;  // the same refresh steps, nothing added
        rows.push_back(row);
        row.name = fmt::format("W4A8, {:.0f} % + SSAR", 100 * density);
        row.model.attention.ssar = AttentionParameters{}.ssar;
        rows.push_back(row);
    }
    return rows;
}

/// Of the whole transformer at the clip's size; nothing is allocated.
StagePlan plan_of(const ModelOptions& model, int tokens, const program::Limits& limits) {
    const format::ModelBundle bundle = configurations(model);
    const TokenGrid grid = token_grid(tokens);
    const models::LatentShape latent =
        latent_of_tokens(bundle, grid.frames, grid.rows, grid.columns);
    AttentionParameters attention = periodic(model.attention);
    const std::vector<float> sigmas(static_cast<std::size_t>(2 * *attention.refresh_interval),
                                    1.0f);
    attention.dense_steps = 0;
    const attention::StepSchedule schedule(attention, sigmas);
    const format::Network& network = transformer_of(bundle).network;
    program::Program program(limits);
    const auto dit = models::denoising_kind(network).make(
        program, network, transformer_options(model, bundle, latent, kBranches, schedule));
    return pipeline::stage_plan("dit", program);
}

/// Whether `row` is the one before with a correction: what that adds is told from runs in turns.
bool corrects(const Row& row, const Row& before) {
    return row.model.attention.kind == AttentionKind::sparse &&
           row.model.attention.ssar != SsarMode::none &&
           before.model.attention.kind == AttentionKind::sparse &&
           before.model.attention.ssar == SsarMode::none;
}

/// Rows that are measured in turns, so that what disturbs one disturbs all: as many as the device
/// has room for, those with and without a correction always together. Returns each group's end.
std::vector<std::size_t> groups_of(Device& device, const std::vector<Row>& rows, int tokens) {
    const std::uint64_t budget = device.internal().memory_budget();
    const auto bytes = [&](const Row& row) {
        ModelOptions model = row.model;
        model.tokens = tokens;
        return Block::plan_of(device, model).total_bytes();
    };
    std::vector<std::size_t> ends;
    std::uint64_t wanted = 0;
    for (std::size_t r = 0; r < rows.size();) {
        std::uint64_t unit = bytes(rows[r]);
        std::size_t end = r + 1;
        for (; end < rows.size() && corrects(rows[end], rows[end - 1]); ++end) {
            unit += bytes(rows[end]);
        }
        if (r > 0 && budget && wanted + unit > budget) {
            ends.push_back(r);
            wanted = 0;
        }
        wanted += unit;
        r = end;
    }
    ends.push_back(rows.size());
    return ends;
}

/// What each round of `row` took over the one of `before` beside it.
void compare_rounds(Row& row, const Row& before, int size, int repeats) {
    row.ssar_adds.clear();
    for (std::size_t i = 0; i < static_cast<std::size_t>(repeats); ++i) {
        const auto period = [&](const Row& of) {
            std::vector<double> kinds;
            for (const auto& times : of.seconds[size]) kinds.push_back(times[i]);
            return of.period_mean(kinds);
        };
        row.ssar_adds.push_back(period(row) / period(before) - 1);
    }
    std::sort(row.ssar_adds.begin(), row.ssar_adds.end());
}

/// Runs all rows at one number of tokens; returns whether all of them in turns.
bool measure(Device& device, std::vector<Row>& rows, int size, int tokens, int repeats) {
    const std::vector<std::size_t> ends = groups_of(device, rows, tokens);
    std::size_t first = 0;
    for (const std::size_t end : ends) {
        std::vector<std::unique_ptr<Block>> blocks;
        for (std::size_t r = first; r < end; ++r) {
            Row& row = rows[r];
            row.model.tokens = tokens;
            blocks.push_back(std::make_unique<Block>(device, row.model));
            row.kinds = blocks.back()->kinds();
            row.seconds[size].resize(row.kinds.size());
            fmt::print("  {} at {} tokens: {}\n", row.name, tokens,
                       bytes_text(blocks.back()->plan().total_bytes()));
            std::fflush(stdout);
            blocks.back()->warm_up();
        }
        for (int i = 0; i < repeats; ++i) {
            for (std::size_t r = first; r < end; ++r) {
                for (std::size_t k = 0; k < rows[r].kinds.size(); ++k) {
                    rows[r].seconds[size][k].push_back(blocks[r - first]->run(rows[r].kinds[k]));
                }
                blocks[r - first]->check_finite();
            }
            fmt::print("  round {} of {} at {} tokens\n", i + 1, repeats, tokens);
            std::fflush(stdout);
        }
        first = end;
    }
    for (std::size_t r = 1; r < rows.size(); ++r) {
        if (corrects(rows[r], rows[r - 1])) compare_rounds(rows[r], rows[r - 1], size, repeats);
    }
    for (Row& row : rows) {
        for (auto& times : row.seconds[size]) std::sort(times.begin(), times.end());
    }
    return ends.size() == 1;
}

void evaluate(std::vector<Row>& rows, const Table4Options& options, int layers) {
    std::vector<double> dense_cost;  // of the layers that are always dense, by weight bits
    for (Row& row : rows) {
        std::vector<double> fastest, median, clip;
        for (std::size_t k = 0; k < row.kinds.size(); ++k) {
            const auto& small = row.seconds[0][k];
            const auto& large = row.seconds[1][k];
            fastest.push_back(large.front());
            median.push_back(large[large.size() / 2]);
            clip.push_back(
                fit_step_cost(options.tokens / 2, small.front(), options.tokens, large.front())
                    .at(options.clip_tokens));
        }
        row.block_seconds = row.period_mean(fastest);
        row.block_median = row.period_mean(median);
        const double block = row.period_mean(clip);
        const int dense_layers = row.model.attention.kind == AttentionKind::sparse
                                     ? row.model.attention.dense_layers
                                     : 0;
        if (row.model.attention.kind != AttentionKind::sparse) dense_cost.push_back(block);
        row.clip_seconds = options.steps * kBranches *
                           ((layers - dense_layers) * block + dense_layers * dense_cost.back());
    }
}

std::string duration(double seconds) {
    if (seconds < 120) return fmt::format("{:.1f} s", seconds);
    if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
    return fmt::format("{:.1f} h", seconds / 3600);
}

void write_html(const std::vector<Row>& rows, const Table4Options& options, const Device& device,
                const std::vector<std::string>& notes,
                const std::vector<std::vector<std::string>>& cells) {
    HtmlReport html(fmt::format("{} on {}", options.config, device.info().name));
    html.paragraph(fmt::format("{}, {} arithmetic", device.info().driver,
                               arithmetic_name(device.arithmetic())));
    html.table({"configuration", "storage", "memory", "block", "clip", "speed"}, cells);
    for (const std::string& note : notes) html.paragraph(note);
    const auto chart = [&](const std::string& title, auto value, auto text) {
        std::vector<Bar> bars;
        for (const Row& row : rows) bars.push_back({row.name, value(row), text(row)});
        html.bar_chart(title, bars);
    };
    chart(
        "Storage of the transformer",
        [](const Row& row) { return static_cast<double>(row.storage_bytes); },
        [](const Row& row) { return bytes_text(row.storage_bytes); });
    chart(
        "Memory while denoising, as planned",
        [](const Row& row) { return static_cast<double>(row.memory.total_bytes()); },
        [](const Row& row) { return bytes_text(row.memory.total_bytes()); });
    chart(
        fmt::format("One block at {} tokens, mean of a refresh period, measured", options.tokens),
        [](const Row& row) { return row.block_seconds; },
        [](const Row& row) { return fmt::format("{:.3f} s", row.block_seconds); });
    chart(
        fmt::format("A clip of {} tokens, {} steps, extrapolated", options.clip_tokens,
                    options.steps),
        [](const Row& row) { return row.clip_seconds; },
        [](const Row& row) { return duration(row.clip_seconds); });
    html.write(options.html);
}

Json json_of(const std::vector<Row>& rows, const Table4Options& options, const Device& device,
             int layers, bool together) {
    Json document = device_json(device);
    document["config"] = options.config;
    document["layers"] = layers;
    document["storage"] = options.storage == Storage::half ? "half" : "fp32";
    document["measured_tokens"] = {options.tokens / 2, options.tokens};
    document["measured_in_turns"] = together;
    document["clip_tokens"] = options.clip_tokens;
    document["steps"] = options.steps;
    document["branches"] = kBranches;
    document["repeats"] = options.repeats;
    for (const Row& row : rows) {
        Json entry = {{"name", row.name},
                      {"storage_bytes", row.storage_bytes},
                      {"memory_bytes", row.memory.total_bytes()},
                      {"memory_weights", row.memory.weight_bytes},
                      {"memory_activations", row.memory.activation_bytes},
                      {"memory_residuals", row.memory.residual_bytes},
                      {"block_seconds_min", row.block_seconds},
                      {"block_seconds_median", row.block_median},
                      {"block_speed", rows[0].block_seconds / row.block_seconds},
                      {"clip_seconds_extrapolated", row.clip_seconds},
                      {"clip_speed_extrapolated", rows[0].clip_seconds / row.clip_seconds}};
        if (!row.ssar_adds.empty()) {
            entry["ssar_adds"] = row.ssar_adds[row.ssar_adds.size() / 2];
            entry["ssar_adds_range"] = {row.ssar_adds.front(), row.ssar_adds.back()};
        }
        for (std::size_t k = 0; k < row.kinds.size(); ++k) {
            for (int size = 0; size < 2; ++size) {
                const auto& times = row.seconds[size][k];
                entry["steps"].push_back({{"kind", step_kind_name(row.kinds[k])},
                                          {"tokens", size ? options.tokens : options.tokens / 2},
                                          {"seconds_min", times.front()},
                                          {"seconds_median", times[times.size() / 2]}});
            }
        }
        document["rows"].push_back(entry);
    }
    return document;
}

}  // namespace

void run_table4(const Table4Options& options) {
    Device device(options.device);
    std::vector<Row> rows = rows_of(options);
    const format::ModelBundle bundle = configurations(rows[0].model);
    const format::Network& network = transformer_of(bundle).network;
    const int layers = static_cast<int>(network.blocks.size());
    const program::Limits limits = pipeline::device_limits(device.internal());
    fmt::print("device {} ({}), arithmetic {}\n", device.info().name, device.info().driver,
               arithmetic_name(device.arithmetic()));
    for (Row& row : rows) {
        row.storage_bytes = transformer_bytes(network, row.model.weight_bits);
        row.memory = plan_of(row.model, options.clip_tokens, limits);
    }
    bool together = true;
    for (const int size : {0, 1}) {
        together &= measure(device, rows, size, size ? options.tokens : options.tokens / 2,
                            options.repeats);
    }
    evaluate(rows, options, layers);

    std::vector<std::string> notes = {
        fmt::format(
            "Storage: the transformer's file, 16 bits for what is not quantised. Memory: the "
            "plan of the denoising stage at {} tokens, {} guidance branches.",
            options.clip_tokens, kBranches),
        fmt::format("Block: measured at {} tokens, mean of a refresh period of {} steps, minimum "
                    "(median) of {} runs{}, with embeddings and head.",
                    options.tokens, *periodic(rows.back().model.attention).refresh_interval,
                    options.repeats, together ? " in turns" : ", in turns as far as memory allows"),
        fmt::format("Clip: EXTRAPOLATED to {} tokens, {} layers, {} steps and {} branches from "
                    "blocks of {} and {} tokens as a n + b n^2.",
                    options.clip_tokens, layers, options.steps, kBranches, options.tokens / 2,
                    options.tokens)};
    for (const Row& row : rows) {
        if (row.ssar_adds.empty()) continue;
        notes.push_back(
            fmt::format("{}: {:+.1f} % ({:+.1f} to {:+.1f}) beside the same steps without a "
                        "correction in turns.",
                        row.name, 100 * row.ssar_adds[row.ssar_adds.size() / 2],
                        100 * row.ssar_adds.front(), 100 * row.ssar_adds.back()));
    }
    std::vector<std::vector<std::string>> cells;
    fmt::print("\n{:<26}{:>12}{:>12}{:>21}{:>9}{:>12}{:>9}\n", "configuration", "storage", "memory",
               "block", "", "clip", "");
    for (const Row& row : rows) {
        cells.push_back({row.name, bytes_text(row.storage_bytes),
                         bytes_text(row.memory.total_bytes()),
                         fmt::format("{:.3f} ({:.3f}) s", row.block_seconds, row.block_median),
                         duration(row.clip_seconds),
                         fmt::format("x{:.2f}", rows[0].clip_seconds / row.clip_seconds)});
        const auto& c = cells.back();
        fmt::print("{:<26}{:>12}{:>12}{:>21}{:>9}{:>12}{:>9}\n", c[0], c[1], c[2], c[3],
                   fmt::format("x{:.2f}", rows[0].block_seconds / row.block_seconds), c[4], c[5]);
    }
    fmt::print("\n");
    for (const std::string& note : notes) fmt::print("{}\n", note);
    if (!options.json.empty()) {
        write_json(options.json, json_of(rows, options, device, layers, together));
    }
    if (!options.html.empty()) write_html(rows, options, device, notes, cells);
}

}  // namespace quantsparse::bench
