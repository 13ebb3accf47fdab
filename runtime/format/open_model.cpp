// Finding the networks of a model in the layouts people have, and checking that they fit together.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/check_tensors.hpp"
#include "format/json_fields.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "format/networks/registry.hpp"
#include "format/scheduler_config.hpp"
#include "format/text.hpp"
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

[[noreturn]] void refuse_folder(const fs::path& folder, const std::string& what) {
    throw Error(ErrorCode::io, fmt::format("'{}' {}", folder.string(), what));
}

/// Opens a network's weights and describes it: by the configuration, or by its tensors' shapes
/// where there is no such file.
Component open_component(const Part& part, const fs::path& weights, const fs::path& config) {
    const auto& kind = network_kind(part.kind);
    const auto object = config.empty() ? json() : read_json(config);
    auto checkpoint = std::make_shared<Checkpoint>(Checkpoint::open(weights, kind));
    const std::string where = (config.empty() ? weights : config).string();
    auto network =
        kind.describe(config.empty() ? kind.infer(*checkpoint) : object, checkpoint.get(), where);
    return {std::move(network), std::move(checkpoint)};
}

const Architecture& architecture_of_pipeline(const json& index, const fs::path& path) {
    const json* name = find_field(index, {"_class_name"});
    std::vector<std::string> known;
    for (const auto& architecture : architectures()) {
        if (name != nullptr && *name == architecture.pipeline_class) {
            return architecture;
        }
        known.push_back(fmt::format("{} ({})", architecture.pipeline_class, architecture.title));
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' describes the pipeline {}; this version runs {}", path.string(),
                            name != nullptr ? printable(name->dump()) : "without a _class_name",
                            list_names(known)));
}

/// A diffusers pipeline folder.
ModelBundle open_diffusers(const fs::path& folder) {
    const fs::path index_path = folder / "model_index.json";
    const json index = read_json(index_path);
    const Architecture& architecture = architecture_of_pipeline(index, index_path);
    const auto require = [&](const std::string& part) {
        if (!fs::is_directory(folder / part)) {
            refuse_folder(folder, fmt::format("lacks the folder '{}'; copy the whole model", part));
        }
    };
    for (const auto& part : architecture.parts) {
        require(part.role);
    }
    for (const auto& part : architecture.tokenizers) {
        require(part.role);
    }
    ModelBundle bundle;
    bundle.architecture = architecture.name;
    for (const auto& part : architecture.parts) {
        const fs::path place = folder / part.role;
        bundle.components[part.role] = open_component(part, place, place / "config.json");
    }
    const fs::path scheduler = folder / "scheduler" / "scheduler_config.json";
    if (fs::exists(scheduler)) {
        bundle.warnings = read_scheduler_config(scheduler, index, bundle.defaults);
    }
    read_generation_defaults(index, index_path.string(), bundle.defaults);
    for (const auto& part : architecture.tokenizers) {
        bundle.tokenizers[part.role] =
            read_small_file(folder / part.role / part.file, kLargestTokenizer);
    }
    return bundle;
}

/// The one file of the folder that has the ending and any of the words in its name.
fs::path find_file(const fs::path& folder, const std::vector<std::string>& words,
                   const char* ending) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const auto name = entry.path().filename().string();
        const bool named = std::any_of(words.begin(), words.end(), [&](const std::string& word) {
            return name.find(word) != std::string::npos;
        });
        if (named && name.ends_with(ending)) {
            found.push_back(entry.path());
        }
    }
    return found.size() == 1 ? found.front() : fs::path();
}

/// A network of an original release: safetensors, or a clear word on the .pth that is there
/// instead.
fs::path original_part(const fs::path& folder, const Part& part) {
    for (const char* ending : {".safetensors.index.json", ".safetensors"}) {
        if (const auto path = find_file(folder, part.words, ending); !path.empty()) {
            return path;
        }
    }
    if (const auto path = find_file(folder, part.words, ".pth"); !path.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is a .pth file; convert it once (quantsparse-calibrate "
                                "converts the folder '{}')",
                                path.string(), folder.string()));
    }
    refuse_folder(folder, fmt::format("has no single .safetensors file for the {} (a name with "
                                      "'{}')",
                                      part.title, part.words.front()));
}

/// An original release's folder, its .pth files converted.
ModelBundle open_original(const fs::path& folder, const Architecture& architecture) {
    ModelBundle bundle;
    bundle.architecture = architecture.name;
    std::vector<fs::path> files;
    for (const auto& part : architecture.parts) {
        files.push_back(original_part(folder, part));
    }
    for (std::size_t i = 0; i < files.size(); ++i) {
        const auto& part = architecture.parts[i];
        const fs::path config = folder / "config.json";  // the transformer's, which comes first
        bundle.components[part.role] =
            open_component(part, files[i], i == 0 && fs::exists(config) ? config : fs::path());
    }
    for (const auto& part : architecture.tokenizers) {
        for (const auto& place : part.places) {
            if (fs::exists(folder / place)) {
                bundle.tokenizers[part.role] = read_small_file(folder / place, kLargestTokenizer);
            }
        }
        if (!bundle.tokenizers.contains(part.role)) {
            refuse_folder(folder,
                          fmt::format("lacks {}; copy it from the release", part.places.front()));
        }
    }
    return bundle;
}

/// ComfyUI's models folder with one file in each of its subfolders; its text encoders carry the
/// tokenizer as a tensor.
ModelBundle open_comfyui(const fs::path& folder, const Architecture& architecture) {
    ModelBundle bundle;
    bundle.architecture = architecture.name;
    for (const auto& part : architecture.parts) {
        bundle.components[part.role] = open_component(part, folder / part.comfyui_folder, {});
    }
    for (const auto& part : architecture.tokenizers) {
        const auto& bytes = bundle.at(part.encoder).checkpoint->at(part.tensor).bytes;
        bundle.tokenizers[part.role] = {bytes.begin(), bytes.end()};
    }
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
        check_tensors(*component.checkpoint, part.title, component.network, bundle.quantization);
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
    const fs::path index_path = folder / "model_index.json";
    const Architecture& architecture = architecture_of_pipeline(read_json(index_path), index_path);
    ModelBundle bundle;
    bundle.architecture = architecture.name;
    for (const auto& part : architecture.parts) {
        const fs::path config = folder / part.role / "config.json";
        bundle.components[part.role].network =
            network_kind(part.kind).describe(read_json(config), nullptr, config.string());
    }
    return bundle;
}

ModelBundle open_model(const fs::path& path) {
    if (!fs::exists(path)) {
        throw Error(ErrorCode::io,
                    fmt::format("the model '{}' does not exist; check the path", path.string()));
    }
    ModelBundle bundle;
    if (!fs::is_directory(path)) {
        bundle = open_model_file(path);
    } else if (fs::exists(path / "model_index.json")) {
        bundle = open_diffusers(path);
    } else if (fs::is_directory(path / "diffusion_models")) {
        bundle = open_comfyui(path, architectures().front());
    } else {
        bundle = open_original(path, architectures().front());
    }
    check_bundle(bundle, path);
    return bundle;
}

}  // namespace quantsparse::format
