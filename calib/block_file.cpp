#include "calib/block_file.hpp"

#include <cstring>
#include <nlohmann/json.hpp>

#include "format/model_file.hpp"
#include "format/safetensors.hpp"

namespace quantsparse::calib {
namespace {

using format::DType;
using nlohmann::json;

template <typename T>
std::vector<T> raw_values(const format::TensorView& view) {
    std::vector<T> values(view.bytes.size() / sizeof(T));
    std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(T));
    return values;
}

json to_json(const QuantizedLinear& linear) {
    const auto& report = linear.report;
    return {{"name", linear.name},
            {"group", linear.group},
            {"weight_bits", linear.bits.weights},
            {"activation_bits", linear.bits.activations},
            {"out_features", linear.out_features},
            {"in_features", linear.in_features},
            {"weight_snr_db", report.weight_snr_db},
            {"output_snr_db", report.output_snr_db},
            {"alpha", report.alpha},
            {"mean_gamma", report.mean_gamma}};
}

/// From a work file or a checkpoint.
template <typename File>
QuantizedLinear read_linear(const File& file, const std::string& name, int out_features,
                            int in_features) {
    QuantizedLinear linear;
    linear.name = name;
    linear.out_features = out_features;
    linear.in_features = in_features;
    linear.codes = raw_values<std::uint32_t>(file.at(linear.name + ".codes"));
    linear.scale = format::to_float(file.at(linear.name + ".scale"));
    linear.bias = format::to_float(file.at(linear.name + ".bias"));
    linear.channel_scale = format::to_float(file.at(linear.name + ".channel_scale"));
    if (const auto* signs = file.find(linear.name + ".rotation_signs")) {
        linear.rotation_signs = format::to_float(*signs);
    }
    if (const auto* rotation = file.find(linear.name + ".rotation")) {
        linear.rotation = raw_values<std::uint16_t>(*rotation);
        linear.rotation_block = static_cast<int>(rotation->shape.at(1));
    }
    if (const auto* down = file.find(linear.name + format::kLoraDown)) {
        linear.branch_down = raw_values<std::uint16_t>(*down);
        linear.branch_up = raw_values<std::uint16_t>(file.at(linear.name + format::kLoraUp));
    }
    if (const auto* clip = file.find(linear.name + ".activation_clip")) {
        linear.activation_clip = format::to_float(*clip).at(0);
    }
    return linear;
}

}  // namespace

void save_block(const std::filesystem::path& path, const std::vector<QuantizedLinear>& linears,
                const std::string& fingerprint) {
    format::SafetensorsWriter writer(path);
    writer.set_metadata("fingerprint", fingerprint);
    auto reports = json::array();
    for (const auto& linear : linears) {
        reports.push_back(to_json(linear));
        const auto declare = [&](const char* part, DType dtype,
                                 const std::vector<std::int64_t>& shape) {
            writer.declare(linear.name + part, dtype, shape);
        };
        declare(".codes", DType::u32,
                format::codes_shape(linear.out_features, linear.in_features, linear.bits.weights));
        declare(".scale", DType::f32, {linear.out_features});
        declare(".bias", DType::f32, {linear.out_features});
        declare(".channel_scale", DType::f32, {linear.in_features});
        if (!linear.rotation_signs.empty()) {
            declare(".rotation_signs", DType::f32, {linear.in_features});
        }
        if (!linear.rotation.empty()) {
            const int b = linear.rotation_block;
            declare(".rotation", DType::f16, {linear.in_features / b, b, b});
        }
        if (const int rank = linear.branch_rank(); rank > 0) {
            declare(format::kLoraDown, DType::f16, {rank, linear.in_features});
            declare(format::kLoraUp, DType::f16, {linear.out_features, rank});
        }
        if (linear.activation_clip != 1.0f) {
            declare(".activation_clip", DType::f32, {1});
        }
    }
    writer.set_metadata("linears", reports.dump());
    for (const auto& linear : linears) {
        const auto write = [&](const char* part, auto span) {
            if (!span.empty()) {
                writer.write(linear.name + part, std::as_bytes(span));
            }
        };
        write(".codes", std::span(linear.codes));
        write(".scale", std::span(linear.scale));
        write(".bias", std::span(linear.bias));
        write(".channel_scale", std::span(linear.channel_scale));
        write(".rotation_signs", std::span(linear.rotation_signs));
        write(".rotation", std::span(linear.rotation));
        write(format::kLoraDown, std::span(linear.branch_down));
        write(format::kLoraUp, std::span(linear.branch_up));
        if (linear.activation_clip != 1.0f) {
            write(".activation_clip", std::span(&linear.activation_clip, 1));
        }
    }
    writer.finish();
}

std::vector<QuantizedLinear> stored_linears(const format::Component& transformer,
                                            const format::Quantization& quantization, int block) {
    const auto& described = transformer.network.blocks.at(static_cast<std::size_t>(block));
    std::vector<QuantizedLinear> linears;
    for (const auto& group : described.groups) {
        const auto bits = quantization.of(described, group);
        if (!bits.quantized()) {
            continue;
        }
        for (const auto& linear : linears_of(described, group)) {
            linears.push_back(read_linear(*transformer.checkpoint, linear.name, linear.out_features,
                                          linear.in_features));
            linears.back().group = group.name;
            linears.back().bits = bits;
        }
    }
    return linears;
}

std::vector<QuantizedLinear> load_block(const std::filesystem::path& path,
                                        const std::string& fingerprint) {
    if (!std::filesystem::exists(path)) {
        return {};
    }
    try {
        const format::SafetensorsFile file(path);
        if (file.metadata().at("fingerprint") != fingerprint) {
            return {};
        }
        std::vector<QuantizedLinear> linears;
        for (const auto& entry : json::parse(file.metadata().at("linears"))) {
            auto linear = read_linear(file, entry.at("name"), entry.at("out_features"),
                                      entry.at("in_features"));
            linear.group = entry.at("group");
            linear.bits = {entry.at("weight_bits"), entry.at("activation_bits")};
            linear.report = {linear.name, entry.at("weight_snr_db"), entry.at("output_snr_db"),
                             entry.at("alpha"), entry.at("mean_gamma")};
            linears.push_back(std::move(linear));
        }
        return linears;
    } catch (const std::exception&) {
        return {};  // half of an older run: the block is done anew
    }
}

}  // namespace quantsparse::calib
