#include "calib/record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "quantsparse/version.hpp"

namespace quantsparse::calib {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// What stays in floating point of a transformer: what is in no block, and the blocks' own tensors.
json high_precision_of(const format::Network& network) {
    std::vector<std::string> names;
    for (const auto& tensor : network.tensors) {
        const bool in_block =
            std::any_of(network.blocks.begin(), network.blocks.end(),
                        [&](const auto& block) { return tensor.name.starts_with(block.prefix); });
        const auto name = tensor.name.substr(0, tensor.name.find('.'));
        if (!in_block && std::find(names.begin(), names.end(), name) == names.end()) {
            names.push_back(name);
        }
    }
    names.insert(names.end(), {"norms", "biases", "modulation"});
    return names;
}

json block_record(const BlockReport& report, std::span<const LinearReport> reports) {
    json linears = json::array();
    double noise = 0;
    for (const auto& linear : reports) {
        linears.push_back({{"name", linear.name},
                           {"weight_snr_db", std::round(linear.weight_snr_db * 100) / 100},
                           {"output_snr_db", std::round(linear.output_snr_db * 100) / 100},
                           {"alpha", std::round(linear.alpha * 10) / 10},
                           {"mean_gamma", std::round(linear.mean_gamma * 1000) / 1000}});
        noise += std::pow(10.0, -linear.output_snr_db / 10.0) / static_cast<double>(reports.size());
    }
    return {{"loss", noise},  // mean over the linears of |error|^2 / |output|^2
            {"own_error", report.errors.own},
            {"prefix_error", report.errors.prefix},
            {"map_error", report.errors.full_map},
            {"linears", linears}};
}

/// Five digits are more than the runtime needs to place refreshes by.
json drift_record(const std::vector<float>& drift) {
    json levels = json::array();
    for (const float value : drift) {
        levels.push_back(std::round(static_cast<double>(value) * 1e5) / 1e5);
    }
    return levels;
}

/// What has become part of the weights, as others can find it again.
json adapters_record(const std::vector<Adapter>& adapters) {
    json list = json::array();
    for (const auto& adapter : adapters) {
        json record = {{"file", adapter.file.filename().string()},
                       {"bytes", fs::file_size(adapter.file)},
                       {"strength", adapter.strength}};
        if (adapter.target != AdapterTarget::both) {
            record["target"] = adapter.target == AdapterTarget::high ? "high" : "low";
        }
        list.push_back(record);
    }
    return list;
}

}  // namespace

std::string quantization_record(const CalibrationOptions& options, const format::Network& network,
                                const ClipSize& size, const CalibrationSummary& summary,
                                double seconds) {
    const bool quantizes = quantization_of(options).quantized();
    json record = {{"weight_bits", options.weight_bits},
                   {"activation_bits", options.activation_bits},
                   {"method", quantizes ? options.preset : "none"},
                   {"tool", fmt::format("quantsparse-calibrate {}", kVersion)}};
    if (!options.adapters.empty()) {
        record["adapters"] = adapters_record(options.adapters);
    }
    if (!quantizes) {
        return record.dump();
    }
    for (const auto& [group, bits] : options.group_bits) {
        record["groups"][group] = {{"weight_bits", bits.weights},
                                   {"activation_bits", bits.activations}};
    }
    record["granularity"] = {{"weights", "symmetric, per output channel"},
                             {"activations", "symmetric, per token, dynamic"}};
    const auto method = method_of(options);
    record["rounding"] = name_of(method.rounding);
    record["rotation"] = name_of(method.rotation);
    record["smoothing"] = name_of(method.scale);
    if (method.order == TransformOrder::rotate_scale) {
        record["transform_order"] = "rotate_scale";
    }
    if (method.branch_rank > 0) {
        record["branch_rank"] = method.branch_rank;
    }
    record["bias_correction"] = method.correct_bias;
    record["distillation"] = name_of(method.distill);
    record["high_precision"] = high_precision_of(network);
    if (!summary.drift.empty()) {
        record["drift"] = drift_record(summary.drift);
    }
    json blocks = json::array();
    std::span<const LinearReport> reports(summary.reports);
    for (const auto& block : summary.blocks) {
        blocks.push_back(block_record(block, reports.first(block.linears)));
        reports = reports.subspan(block.linears);
    }
    record["calibration"] = {
        {"samples", method.learns ? training_count(options) : clip_count(options)},
        {"steps", options.steps},
        {"guidance_scale", summary.guidance},
        {"epochs", method.learns ? options.learning.epochs : 0},
        {"seed", options.seed},
        {"width", size.width},
        {"height", size.height},
        {"frames", size.frames},
        {"tokens", size.tokens},
        {"prompts", choose_prompts(options)},
        {"seconds", std::round(seconds)},
        {"blocks", blocks}};
    return record.dump();
}

}  // namespace quantsparse::calib
