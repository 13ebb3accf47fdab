#include "report.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "quantsparse/names.hpp"
#include "quantsparse/version.hpp"

namespace quantsparse::video {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kProfileRows = 24;

// Text may come from drivers and files: never fails on broken UTF-8.
std::string dump(const Json& json, int indent) {
    return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// What matters of the attention: a dense clip has nothing more to say.
Json attention_record(const AttentionParameters& a) {
    Json record = {{"kind", word_of(*a.kind)}, {"arithmetic", word_of(a.products)}};
    if (a.kind == AttentionKind::dense) return record;
    if (a.density) record["density"] = *a.density;
    if (a.kind == AttentionKind::sla) return record;
    if (a.block_size) record["block_size"] = *a.block_size;
    if (!a.mask_file.empty()) record["mask_file"] = a.mask_file.string();
    record.update({{"mask", word_of(a.mask)},
                   {"granularity", word_of(a.granularity)},
                   {"sink", word_of(a.sink)},
                   {"dense_steps", *a.dense_steps},
                   {"dense_layers", a.dense_layers},
                   {"ssar", word_of(*a.ssar)}});
    if (a.mask == MaskMode::topk || a.mask == MaskMode::jenga) {
        record["top_p"] = *a.top_p;
        record["block_order"] = word_of(*a.block_order);
        record["tail"] = word_of(a.tail);
    }
    if (a.ssar != SsarMode::off) {
        if (a.refresh_interval) record["refresh_interval"] = *a.refresh_interval;
        if (a.refreshes) record["refreshes"] = *a.refreshes;
        if (!a.refresh_steps.empty()) record["refresh_steps"] = a.refresh_steps;
    }
    if (a.ssar != SsarMode::off && a.ssar != SsarMode::none) {
        record["rank"] = a.ssar_rank;
        record["span"] = word_of(a.ssar_span);
        record["gain"] = word_of(a.ssar_gain);
        record["residual"] = word_of(a.residual);
    }
    return record;
}

// What says how the clip is integrated; lists and presets only where there are some.
Json sampling_record(const GenerationParameters& p) {
    Json record = {{"seed", p.seed},
                   {"rng", word_of(p.rng)},
                   {"steps", *p.steps},
                   {"sampler", word_of(*p.sampler)},
                   {"guidance_scale", *p.guidance_scale}};
    if (p.few_steps) record["few_steps"] = word_of(*p.few_steps);
    if (!p.sigmas.empty()) record["sigmas"] = p.sigmas;
    if (!p.timesteps.empty()) record["timesteps"] = p.timesteps;
    if (p.flow_shift) record["flow_shift"] = *p.flow_shift;
    return record;
}

// The same for people.
std::string sampling_line(const GenerationParameters& p) {
    std::string line = word_of(*p.sampler);
    if (!p.sigmas.empty()) line += fmt::format(" at sigmas {:g}", fmt::join(p.sigmas, ", "));
    if (!p.timesteps.empty()) {
        line += fmt::format(" at timesteps {:g}", fmt::join(p.timesteps, ", "));
    }
    if (p.few_steps) line += fmt::format(" ({})", word_of(*p.few_steps));
    if (p.flow_shift) line += fmt::format(", flow shift {:g}", *p.flow_shift);
    return line +
           fmt::format(", guidance scale {:g}, {} noise\n", *p.guidance_scale, word_of(p.rng));
}

Json adapters_record(const std::vector<Adapter>& adapters) {
    Json list = Json::array();
    for (const Adapter& adapter : adapters) {
        Json record = {{"file", adapter.file.filename().string()}, {"strength", adapter.strength}};
        if (adapter.target != AdapterTarget::both) record["target"] = word_of(adapter.target);
        list.push_back(record);
    }
    return list;
}

// One line about the densities that heads got where blocks are chosen.
std::string density_line(const std::vector<AttentionLayer>& layers) {
    double least = 1, most = 0, sum = 0;
    std::size_t heads = 0;
    for (const AttentionLayer& layer : layers) {
        for (const double density : layer.densities) {
            least = std::min(least, density);
            most = std::max(most, density);
            sum += density;
            ++heads;
        }
    }
    if (heads == 0) return {};
    return fmt::format("chosen blocks: {:.3f} of the pairs, {:.3f} to {:.3f} of a head's\n",
                       sum / static_cast<double>(heads), least, most);
}

// One line about head types: how often they changed tells what freezing them costs.
std::string attention_line(const std::vector<AttentionLayer>& layers) {
    std::size_t heads = 0, temporal = 0, flips = 0, refused = 0, non_finite = 0;
    for (const AttentionLayer& layer : layers) {
        heads += layer.head_types.size();
        for (const std::uint32_t type : layer.head_types) temporal += type;
        for (const std::uint32_t count : layer.flips) flips += count;
        refused += layer.refused;
        non_finite += layer.non_finite;
    }
    return fmt::format(
        "\nsparse attention: {} of {} heads temporal at the last refresh, {} changes of type; "
        "{} differences refused, {} residuals not finite\n",
        temporal, heads, flips, refused, non_finite);
}

}  // namespace

std::string bytes_text(std::uint64_t bytes) {
    constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : value < 10 ? 2 : 1, kUnits[unit]);
}

std::string devices_table(const std::vector<DeviceInfo>& devices) {
    std::string text;
    for (const DeviceInfo& device : devices) {
        text +=
            fmt::format("{} {}: {}\n", device.is_default ? '*' : ' ', device.index, device.name);
        text += fmt::format("     {} device, Vulkan {}, {}\n", device.kind, device.api_version,
                            device.driver);
        text += fmt::format(
            "     memory {}, one allocation {}, one binding {}\n", bytes_text(device.memory_bytes),
            bytes_text(device.max_allocation_bytes), bytes_text(device.max_storage_buffer_range));
        text += fmt::format(
            "     work-group {}, shared memory {}, subgroup {}, integer dot product {}\n",
            device.max_workgroup_invocations, bytes_text(device.shared_memory_bytes),
            device.subgroup_size,
            !device.integer_dot_product      ? "no"
            : device.integer_dot_accelerated ? "accelerated"
                                             : "yes, not accelerated");
        text += fmt::format("     uuid {}\n", device.uuid);
        if (!device.note.empty()) {
            text += fmt::format("     {}\n", device.note);
        }
    }
    return text;
}

std::string plan_table(const MemoryPlan& plan, const StepCounts& steps,
                       const GenerationParameters& parameters) {
    std::string kinds;
    for (const auto& [count, kind] :
         {std::pair{steps.dense, "dense"}, std::pair{steps.refresh, "refreshing"},
          std::pair{steps.sparse, "sparse"}, std::pair{steps.reused, "reused"}}) {
        if (count) kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count, kind);
    }
    std::string text =
        fmt::format("{}x{}, {} frames, {} steps: {}\n", *parameters.width, *parameters.height,
                    *parameters.frames, *parameters.steps, kinds);
    for (const Adapter& adapter : parameters.conditioning.adapters) {
        text += fmt::format("LoRA {}, strength {:g}{}\n", adapter.file.string(), adapter.strength,
                            adapter.target == AdapterTarget::both
                                ? ""
                                : fmt::format(", {} noise", word_of(adapter.target)));
    }
    text += sampling_line(parameters) + '\n';
    text += fmt::format("{:<14}{:>12}{:>13}{:>12}{:>12}{:>12}{:>12}{:>17}{:>12}\n", "stage",
                        "weights", "activations", "residuals", "staging", "total", "host",
                        "largest binding", "operations");
    for (const StagePlan& stage : plan.stages) {
        text += fmt::format("{:<14}{:>12}{:>13}{:>12}{:>12}{:>12}{:>12}{:>17}{:>12}\n", stage.stage,
                            bytes_text(stage.weight_bytes), bytes_text(stage.activation_bytes),
                            bytes_text(stage.residual_bytes), bytes_text(stage.staging_bytes),
                            bytes_text(stage.total_bytes()), bytes_text(stage.host_bytes),
                            bytes_text(stage.largest_binding_bytes), stage.operations);
    }
    text += fmt::format("\n{} (stages run one after another)\n", plan.decision());
    if (plan.budget_bytes > 0) {
        text += fmt::format("{}; the least that works is {}\n",
                            plan.fits() ? "fits" : "does NOT fit: lower --size or --frames",
                            bytes_text(plan.least_bytes));
    }
    return text;
}

std::string plan_json(const MemoryPlan& plan, const StepCounts& steps,
                      const GenerationParameters& parameters) {
    Json stages = Json::array();
    for (const StagePlan& stage : plan.stages) {
        stages.push_back({{"stage", stage.stage},
                          {"weight_bytes", stage.weight_bytes},
                          {"activation_bytes", stage.activation_bytes},
                          {"residual_bytes", stage.residual_bytes},
                          {"staging_bytes", stage.staging_bytes},
                          {"total_bytes", stage.total_bytes()},
                          {"peak_bytes", stage.total_bytes()},
                          {"host_bytes", stage.host_bytes},
                          {"residency", stage.residency},
                          {"largest_binding_bytes", stage.largest_binding_bytes},
                          {"operations", stage.operations}});
    }
    return dump({{"width", *parameters.width},
                 {"height", *parameters.height},
                 {"frames", *parameters.frames},
                 {"adapters", adapters_record(parameters.conditioning.adapters)},
                 {"steps",
                  {{"dense", steps.dense},
                   {"refresh", steps.refresh},
                   {"sparse", steps.sparse},
                   {"reused", steps.reused}}},
                 {"sampling", sampling_record(parameters)},
                 {"stages", stages},
                 {"peak_bytes", plan.peak_bytes},
                 {"budget_bytes", plan.budget_bytes},
                 {"least_bytes", plan.least_bytes},
                 {"fits", plan.fits()},
                 {"decision", plan.decision()}},
                2) +
           '\n';
}

std::string profile_table(const std::vector<OperationTime>& operations,
                          const std::vector<StageTime>& stages,
                          const std::vector<AttentionLayer>& attention) {
    std::string text = fmt::format("{:<12}{:>10}\n", "stage", "seconds");
    for (const StageTime& stage : stages) {
        text += fmt::format("{:<12}{:>10.2f}\n", stage.stage, stage.seconds);
    }
    if (!attention.empty()) {
        text += attention_line(attention) + density_line(attention);
    }
    std::vector<OperationTime> sorted = operations;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; });
    double total = 0;
    for (const OperationTime& operation : sorted) {
        total += operation.milliseconds;
    }
    if (sorted.empty()) {
        return text + "\nno times per operation: the device has no timestamps\n";
    }
    text += fmt::format("\n{:<14}{:<40}{:>9}{:>12}{:>8}\n", "stage", "operation", "calls",
                        "total ms", "share");
    const std::size_t shown = std::min(sorted.size(), kProfileRows);
    for (std::size_t i = 0; i < shown; ++i) {
        const OperationTime& operation = sorted[i];
        text += fmt::format("{:<14}{:<40}{:>9}{:>12.2f}{:>7.1f}%\n", operation.stage,
                            operation.operation, operation.calls, operation.milliseconds,
                            total > 0 ? 100 * operation.milliseconds / total : 0);
    }
    if (shown < sorted.size()) {
        text += fmt::format("and {} more; --profile=FILE.json has all\n", sorted.size() - shown);
    }
    return text;
}

std::string profile_json(const std::vector<OperationTime>& operations,
                         const std::vector<StageTime>& stages,
                         const std::vector<AttentionLayer>& attention, const DeviceInfo& device) {
    Json layers = Json::array();
    for (const AttentionLayer& layer : attention) {
        layers.push_back({{"layer", layer.layer},
                          {"branch", layer.branch},
                          {"head_types", layer.head_types},
                          {"flips", layer.flips},
                          {"refused", layer.refused},
                          {"non_finite", layer.non_finite}});
        if (!layer.densities.empty()) layers.back()["densities"] = layer.densities;
    }
    Json stage_list = Json::array();
    for (const StageTime& stage : stages) {
        stage_list.push_back({{"stage", stage.stage}, {"seconds", stage.seconds}});
    }
    Json operation_list = Json::array();
    for (const OperationTime& operation : operations) {
        operation_list.push_back({{"stage", operation.stage},
                                  {"operation", operation.operation},
                                  {"calls", operation.calls},
                                  {"milliseconds", operation.milliseconds}});
    }
    return dump({{"device", device.name},
                 {"driver", device.driver},
                 {"stages", stage_list},
                 {"operations", operation_list},
                 {"attention", layers}},
                2) +
           '\n';
}

std::string generation_record(const GenerationParameters& parameters, const ModelSummary& model,
                              const std::string& model_name) {
    Json record = {{"prompt", parameters.conditioning.prompt},
                   {"negative_prompt", parameters.conditioning.negative_prompt},
                   {"adapters", adapters_record(parameters.conditioning.adapters)},
                   {"model", model_name},
                   {"architecture", model.architecture},
                   {"quantization", model.quantization},
                   {"width", *parameters.width},
                   {"height", *parameters.height},
                   {"frames", *parameters.frames}};
    record.update(sampling_record(parameters));
    record["step_cache"] = parameters.step_cache;
    record["attention"] = attention_record(parameters.attention);
    record["tool"] = fmt::format("quantsparse {}", kVersion);
    return dump(record, -1);
}

}  // namespace quantsparse::video
