#include "format/model_file.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "format/bit_packing.hpp"
#include "format/json_fields.hpp"
#include "format/networks/registry.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

const std::string& entry(const std::map<std::string, std::string>& metadata, const char* key,
                         const std::string& where) {
    const auto position = metadata.find(key);
    if (position == metadata.end()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' lacks the metadata entry '{}'; make the file again with "
                                "quantsparse-calibrate",
                                where, key));
    }
    return position->second;
}

const json& component(const json& config, const std::string& name, const std::string& where) {
    if (!config.contains(name) || !config[name].is_object()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}': the config in its metadata lacks '{}'", where, name));
    }
    return config[name];
}

int bits_of(const json& record, const char* key, std::initializer_list<int> allowed,
            const std::string& where) {
    for (const int bits : allowed) {
        if (record.is_object() && record.contains(key) && record[key] == bits) {
            return bits;
        }
    }
    throw Error(ErrorCode::bad_file,
                fmt::format("'{}': {} in its metadata is missing or not one this version knows",
                            where, key));
}

}  // namespace

int hadamard_block(int k) {
    int block = 1;
    while (block < 128 && k % (2 * block) == 0) {
        block *= 2;
    }
    return block;
}

void apply_hadamard(std::span<float> rows, int k, std::span<const float> signs) {
    const auto width = static_cast<std::size_t>(k);
    if (k < 1 || rows.size() % width != 0 || (!signs.empty() && signs.size() != width)) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} values and {} signs can't be rotated in rows of {}",
                                rows.size(), signs.size(), k));
    }
    const auto block = static_cast<std::size_t>(hadamard_block(k));
    const float normaliser = 1.0f / std::sqrt(static_cast<float>(block));
    for (std::size_t start = 0; start < rows.size(); start += block) {
        float* values = rows.data() + start;
        for (std::size_t i = 0; i < block; ++i) {
            values[i] *= signs.empty() ? normaliser : normaliser * signs[(start + i) % width];
        }
        for (std::size_t stride = 1; stride < block; stride *= 2) {
            for (std::size_t i = 0; i < block; ++i) {
                if ((i & stride) == 0) {
                    const float a = values[i];
                    const float b = values[i + stride];
                    values[i] = a + b;
                    values[i + stride] = a - b;
                }
            }
        }
    }
}

std::vector<std::int64_t> codes_shape(int n, int k, int bits) {
    const std::int64_t columns = packed_n(n);
    return {static_cast<std::int64_t>(packed_word_count(n, k, bits)) / columns, columns};
}

LinearBytes linear_bytes(const Component& component) {
    LinearBytes bytes;
    const auto add = [&](const std::string& linear, std::initializer_list<const char*> parts,
                         std::uint64_t& sum) {
        for (const char* part : parts) {
            if (const auto* view = component.checkpoint->find(linear + part)) {
                const auto stored = view->computed ? view->computed->stored_bytes() : 0;
                sum += stored != 0 ? stored : view->byte_count();
            }
        }
    };
    for (const auto& block : component.network.blocks) {
        for (const auto& linear : linears_of(block)) {
            bytes.bf16 += 2 * static_cast<std::uint64_t>(linear.out_features) *
                          static_cast<std::uint64_t>(linear.in_features);
            if (component.checkpoint->find(linear.name + ".codes") != nullptr) {
                add(linear.name, {".codes", ".scale", kLoraDown, kLoraUp}, bytes.stored);
            } else {
                add(linear.name, {".weight"}, bytes.stored);
            }
            add(linear.name, {".channel_scale", ".rotation_signs", ".rotation", ".activation_clip"},
                bytes.input_vectors);
        }
    }
    return bytes;
}

void read_generation_defaults(const json& object, const std::string& where,
                              GenerationDefaults& defaults) {
    const auto whole = [&](const char* key, int& value, int highest) {
        value = integer(object, {key}, where, value, 1, highest);
    };
    const auto number = [&](const char* key, double& value, double lowest, double highest) {
        value = number_or(object, key, value, lowest, highest, where);
    };
    whole("native_width", defaults.native_width, 16384);
    whole("native_height", defaults.native_height, 16384);
    whole("native_frames", defaults.native_frames, 4097);
    whole("steps", defaults.steps, 1000);
    number("fps", defaults.fps, 0.1, 1000);
    number("guidance_scale", defaults.guidance_scale, 0, 100);
    number("flow_shift", defaults.flow_shift, 1e-3, 1000);
    if (const json* sampler = find_field(object, {"sampler"})) {
        try {
            defaults.sampler = value_of<Sampler>(sampler->get<std::string>());
        } catch (const std::exception&) {
            reject(where, fmt::format("sampler {} is not known", value_text(*sampler)));
        }
    }
}

std::map<std::string, std::string> model_file_metadata(const ModelBundle& bundle,
                                                       const std::string& quantization_record,
                                                       int version) {
    const auto& defaults = bundle.defaults;
    json config = {{"native_width", defaults.native_width},
                   {"native_height", defaults.native_height},
                   {"native_frames", defaults.native_frames},
                   {"fps", defaults.fps},
                   {"steps", defaults.steps},
                   {"guidance_scale", defaults.guidance_scale},
                   {"flow_shift", defaults.flow_shift},
                   {"sampler", word_of(defaults.sampler)}};
    for (const auto& [role, component] : bundle.components) {
        config[role] = network_kind(component.network.kind).config_json(component.network);
    }
    return {{"format", "quantsparse"},
            {"version", std::to_string(version)},
            {"architecture", bundle.architecture},
            {"config", config.dump()},
            {"quantization", quantization_record}};
}

namespace {

void check_version(const std::string& text, const std::string& where) {
    int version = 0;
    const auto* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, version);
    if (parsed.ec != std::errc{} || parsed.ptr != end || version < 1) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}': version '{}' is no version number", where, printable(text)));
    }
    if (version > kModelFileVersion) {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}' is a model file of version {}, newer than the {} this program "
                        "reads; update quantsparse",
                        where, version, kModelFileVersion));
    }
}

const Architecture& architecture_named(const std::string& name, const std::string& where) {
    std::vector<std::string> known;
    for (const auto& architecture : architectures()) {
        if (architecture.name == name) {
            return architecture;
        }
        known.push_back(architecture.name);
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' holds the unknown architecture '{}'; this version runs {}", where,
                            printable(name), list_names(known)));
}

LinearBits read_bits(const json& record, const std::string& where) {
    const LinearBits bits{bits_of(record, "weight_bits", {3, 4, 6, 8, 16}, where),
                          bits_of(record, "activation_bits", {6, 8, 16}, where)};
    if ((bits.weights == 16) != (bits.activations == 16)) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' mixes {}-bit weights with {}-bit activations, which this "
                                "version does not run",
                                where, bits.weights, bits.activations));
    }
    return bits;
}

std::vector<float> read_drift(const json& levels, const std::string& where) {
    constexpr double kMost = 1e6;
    std::vector<float> drift;
    double last = 0;
    for (const json& level : levels.is_array() ? levels : json::array()) {
        const double value = level.is_number() ? level.get<double>() : -1;
        if (!(value >= last && value <= kMost)) {
            break;
        }
        last = value;
        drift.push_back(static_cast<float>(value));
    }
    if (drift.size() != kDriftLevels || levels.size() != kDriftLevels) {
        reject(where, fmt::format("drift in its metadata must be {} numbers from 0 up that never "
                                  "fall",
                                  kDriftLevels));
    }
    return drift;
}

Quantization read_quantization(const std::string& text, const std::string& where) {
    Quantization quantization;
    quantization.record = text;
    const json record = parse_json_object(text, where);
    quantization.bits = read_bits(record, where);
    if (const json* groups = find_field(record, {"groups"})) {
        if (!groups->is_object()) {
            reject(where, "groups in its metadata must be an object");
        }
        for (const auto& [name, bits] : groups->items()) {
            quantization.groups[name] = read_bits(bits, where);
        }
    }
    if (const json* drift = find_field(record, {"drift"})) {
        quantization.drift = read_drift(*drift, where);
    }
    return quantization;
}

}  // namespace

bool is_model_file(const std::filesystem::path& path) {
    const auto file = open_tensor_source(path);
    const auto format = file->metadata().find("format");
    return format != file->metadata().end() && format->second == "quantsparse";
}

ModelBundle open_model_file(const std::filesystem::path& path) {
    const auto file = open_tensor_source(path);
    const std::string where = path.string();
    check_version(entry(file->metadata(), "version", where), where);
    ModelBundle bundle;
    const auto& architecture =
        architecture_named(entry(file->metadata(), "architecture", where), where);
    bundle.architecture = architecture.name;
    const json config = parse_json_object(entry(file->metadata(), "config", where), where);
    for (const auto& part : architecture.parts) {
        const auto& kind = network_kind(part.kind);
        const auto& of_part = component(config, part.role, where);
        auto checkpoint = std::make_shared<Checkpoint>(
            path, std::vector<std::shared_ptr<const TensorSource>>{file}, kind, part.role + ".");
        auto network = kind.describe(of_part, checkpoint.get(), where);
        bundle.components[part.role] = {std::move(network), std::move(checkpoint)};
    }
    read_generation_defaults(config, where, bundle.defaults);
    bundle.quantization = read_quantization(entry(file->metadata(), "quantization", where), where);
    for (const auto& part : architecture.tokenizers) {
        const auto& bytes = file->at(part.role + ".model").bytes;
        bundle.tokenizers[part.role] = {bytes.begin(), bytes.end()};
    }
    return bundle;
}

}  // namespace quantsparse::format
