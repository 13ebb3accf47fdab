// Opening the networks of a model, wherever they lie, and checking that they fit together.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/check_tensors.hpp"
#include "format/encoded_weights.hpp"
#include "format/file_kind.hpp"
#include "format/gguf_tokenizer.hpp"
#include "format/json_fields.hpp"
#include "format/layouts.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "format/networks/registry.hpp"
#include "format/scheduler_config.hpp"
#include "format/unused.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kLargestConfig = 4 << 20;
constexpr std::size_t kLargestTokenizer = 64 << 20;  ///< UMT5's has 4.5 MB

json read_json(const fs::path& path) {
    return parse_json_object(read_small_text(path, kLargestConfig), path.string());
}

/// A file without the kind's marks is of something else, or damaged: the checks of single tensors
/// name what a damaged one lacks.
void check_is_of_kind(const Checkpoint& checkpoint, const NetworkKind& kind, const Part& part) {
    if (kind.marks.empty() || checkpoint.recognised()) {
        return;
    }
    const auto names = checkpoint.names_on_disk();
    const bool gguf = checkpoint.files().front()->has_ggml_shapes();
    const auto what = !names.empty() ? what_network(names)
                      : gguf         ? "is a GGUF file without tensors"
                                     : "is a safetensors file without tensors";
    if (!what.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' {}, where the {} is needed", checkpoint.path().string(), what,
                                part.title),
                    part.role);
    }
}

/// Opens a network's weights and describes it: by the configuration, or by its tensors' shapes
/// where there is no such file.
Component open_component(const Part& part, const Place& place, std::vector<std::string>& warnings) {
    const auto& kind = network_kind(part.kind);
    const auto object = place.config.empty() ? json() : read_json(place.config);
    auto checkpoint = std::make_shared<Checkpoint>(Checkpoint::open(place.weights, kind));
    check_is_of_kind(*checkpoint, kind, part);
    const std::string where = (place.config.empty() ? place.weights : place.config).string();
    auto network = kind.describe(place.config.empty() ? kind.infer(*checkpoint) : object,
                                 checkpoint.get(), where);
    if (!place.config.empty() && !kind.config_keys.empty()) {
        check_unused_keys(object, kind, where, warnings);
    }
    return {std::move(network), std::move(checkpoint)};
}

/// A tokenizer's file, or what the encoder's file holds in its place.
std::vector<std::byte> open_tokenizer(const TokenizerPart& part, const Layout& layout,
                                      const ModelBundle& bundle) {
    if (const auto found = layout.tokenizers.find(part.role); found != layout.tokenizers.end()) {
        auto bytes = read_small_file(found->second, kLargestTokenizer);
        if (const auto what = what_it_is(bytes); !what.empty()) {
            throw Error(ErrorCode::bad_file, fmt::format("'{}' {}", found->second.string(), what));
        }
        return bytes;
    }
    const auto& encoder = *bundle.at(part.encoder).checkpoint;
    if (auto bytes = gguf_tokenizer(encoder)) {
        return std::move(*bytes);
    }
    const auto* view = encoder.find(part.tensor);
    if (view == nullptr) {
        view = encoder.find_outside(part.tensor);
    }
    if (view == nullptr) {
        throw Error(ErrorCode::io,
                    fmt::format("there is no sentencepiece tokenizer: '{}' holds no tensor '{}', "
                                "and no {} lies beside it; copy that from the model's page",
                                encoder.path().string(), part.tensor, part.file),
                    part.role);
    }
    return {view->bytes.begin(), view->bytes.end()};
}

ModelBundle open_layout(const Layout& layout) {
    ModelBundle bundle;
    bundle.architecture = layout.architecture->name;
    for (const auto& part : layout.architecture->parts) {
        bundle.components[part.role] =
            open_component(part, layout.parts.at(part.role), bundle.warnings);
    }
    if (!layout.index.empty()) {
        const json index = read_json(layout.index);
        if (!layout.scheduler.empty()) {
            const auto lines = read_scheduler_config(layout.scheduler, index, bundle.defaults);
            bundle.warnings.insert(bundle.warnings.end(), lines.begin(), lines.end());
        }
        read_generation_defaults(index, layout.index.string(), bundle.defaults);
    }
    for (const auto& part : layout.architecture->tokenizers) {
        bundle.tokenizers[part.role] = open_tokenizer(part, layout, bundle);
    }
    const auto& transformer = bundle.components.at(layout.architecture->parts.front().role);
    bundle.quantization = native_quantization(transformer.network, *transformer.checkpoint);
    return bundle;
}

void check_bundle(ModelBundle& bundle, const fs::path& path) {
    const auto& list = architectures();
    const auto& architecture =
        *std::find_if(list.begin(), list.end(),
                      [&](const Architecture& known) { return known.name == bundle.architecture; });
    architecture.fit(bundle, path.string());
    for (const auto& part : architecture.parts) {
        const auto& component = bundle.at(part.role);
        const auto& checkpoint = *component.checkpoint;
        check_unused_tensors(checkpoint, component.network, network_kind(part.kind), part.title,
                             bundle.warnings);
        check_tensors(checkpoint, part.title, component.network, bundle.quantization);
        check_zero_weights(checkpoint, component.network, part.title);
    }
}

}  // namespace

void require_equal(const std::string& where, const char* one, int one_value, const char* other,
                   int other_value) {
    if (one_value != other_value) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}': {} is {} but {} is {}; these networks do not belong together", where,
                        one, one_value, other, other_value));
    }
}

ModelBundle describe_model(const fs::path& folder) {
    const Layout layout = find_layout({folder, {}});
    ModelBundle bundle;
    bundle.architecture = layout.architecture->name;
    for (const auto& part : layout.architecture->parts) {
        const auto& config = layout.parts.at(part.role).config;
        bundle.components[part.role].network =
            network_kind(part.kind).describe(read_json(config), nullptr, config.string());
    }
    return bundle;
}

ModelBundle open_model(const ModelFiles& files) {
    const fs::path& path = files.model;
    if (!path.empty() && !fs::exists(path)) {
        throw Error(ErrorCode::io,
                    fmt::format("the model '{}' does not exist; check the path", path.string()));
    }
    ModelBundle bundle;
    if (!path.empty() && !fs::is_directory(path) && is_model_file(path)) {
        if (!files.parts.empty()) {
            const auto& role = files.parts.begin()->first;
            throw Error(ErrorCode::unsupported,
                        fmt::format("'{}' is a calibrated model, whole in itself; leave out the "
                                    "file for its {}",
                                    path.string(), role),
                        role);
        }
        bundle = open_model_file(path);
    } else {
        bundle = open_layout(find_layout(files));
    }
    check_bundle(bundle, path.empty() ? files.parts.begin()->second : path);
    return bundle;
}

ModelBundle open_model(const fs::path& path) {
    return open_model(ModelFiles{path, {}});
}

}  // namespace quantsparse::format
