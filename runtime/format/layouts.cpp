#include "format/layouts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/find_weights.hpp"
#include "format/json_fields.hpp"
#include "format/mapped_file.hpp"
#include "format/networks/registry.hpp"
#include "format/text.hpp"
#include "format/unused.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kLargestIndex = 4 << 20;

[[noreturn]] void refuse(const fs::path& path, const std::string& what,
                         const std::string& field = {}) {
    throw Error(ErrorCode::io, fmt::format("'{}' {}", path.string(), what), field);
}

constexpr const char* kTwoExperts =
    "is of Wan2.2 with two transformers, one for high noise and one for low noise, which this "
    "version does not run; use a Wan2.1 text-to-video model";

/// Names of all tensors of the files, opened for their headers only.
std::vector<std::string> names_of(const fs::path& weights) {
    std::vector<std::string> names;
    for (const auto& file : find_weights(weights).files) {
        const auto source = open_tensor_source(file);
        for (const auto& [name, view] : source->tensors()) {
            names.push_back(name);
        }
    }
    return names;
}

bool holds(const fs::path& weights, const Part& part) {
    return find_prefix(network_kind(part.kind), names_of(weights)).has_value();
}

std::string file_names(const std::vector<fs::path>& paths) {
    std::vector<std::string> names;
    for (const auto& path : paths) {
        names.push_back(fmt::format("'{}'", path.filename().string()));
    }
    return list_names(names);
}

bool are_experts(const std::vector<fs::path>& files) {
    const auto has = [&](const char* word) {
        return std::any_of(files.begin(), files.end(), [&](const fs::path& file) {
            auto name = file.filename().string();
            std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
                return static_cast<char>(c == '-' ? '_' : std::tolower(c));
            });
            return name.find(word) != std::string::npos;
        });
    };
    return (has("high_noise") && has("low_noise")) || (has("highnoise") && has("lownoise"));
}

/// The file of a folder that holds the network. Other weights beside it are a reason to ask: which
/// of them the user means is a guess.
fs::path choose_by_content(const fs::path& folder, const Part& part) {
    const auto files = weight_files_in(folder);
    if (files.size() <= 1 || std::any_of(files.begin(), files.end(), [](const fs::path& file) {
            return file.string().find("-of-0") != std::string::npos;
        })) {
        return folder;  // find_weights() knows
    }
    std::vector<fs::path> found;
    for (const auto& file : files) {
        if (holds(file, part)) {
            found.push_back(file);
        }
    }
    if (found.size() > 1 && are_experts(found)) {
        throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", folder.string(), kTwoExperts));
    }
    refuse(folder,
           fmt::format("holds {} files ({}), of which {} a {}; choose one by name", files.size(),
                       file_names(files),
                       found.empty()       ? std::string("none is")
                       : found.size() == 1 ? file_names(found) + " is"
                                           : fmt::format("{} are each", found.size()),
                       part.title),
           part.role);
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

/// Networks that the index lists and the architecture doesn't have.
void check_components(const json& index, const Architecture& architecture, const fs::path& path) {
    for (const auto& [key, value] : index.items()) {
        const bool present =
            value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string();
        const auto has_role = [&, role = key](const auto& list) {
            return std::any_of(list.begin(), list.end(),
                               [&](const auto& part) { return part.role == role; });
        };
        if (!present || key == "scheduler" || key == "feature_extractor" ||
            has_role(architecture.parts) || has_role(architecture.tokenizers)) {
            continue;
        }
        if (key == "transformer_2") {
            throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", path.string(), kTwoExperts));
        }
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' lists a '{}' ({}), which {} in this version does not have",
                                path.string(), printable(key), printable(value[1].dump()),
                                architecture.title));
    }
    if (const json* expand = find_field(index, {"expand_timesteps"});
        expand != nullptr && *expand != false) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' has expand_timesteps, as Wan2.2 TI2V does, which this "
                                "version does not run",
                                path.string()));
    }
}

/// A diffusers pipeline folder.
Layout diffusers(const ModelFiles& files) {
    Layout layout;
    const fs::path& folder = files.model;
    layout.index = folder / "model_index.json";
    const json index =
        parse_json_object(read_small_text(layout.index, kLargestIndex), layout.index.string());
    layout.architecture = &architecture_of_pipeline(index, layout.index);
    check_components(index, *layout.architecture, layout.index);
    const auto require = [&](const std::string& role) {
        if (!fs::is_directory(folder / role) && !files.parts.contains(role)) {
            refuse(folder, fmt::format("lacks the folder '{}'; copy the whole model", role), role);
        }
    };
    for (const auto& part : layout.architecture->parts) {
        require(part.role);
        layout.parts[part.role] = {folder / part.role, folder / part.role / "config.json"};
    }
    for (const auto& part : layout.architecture->tokenizers) {
        require(part.role);
        layout.tokenizers[part.role] = folder / part.role / part.file;
        if (!fs::exists(folder / part.role / part.file) &&
            fs::exists(folder / part.role / "tokenizer.json") && !files.parts.contains(part.role)) {
            refuse(folder / part.role,
                   fmt::format("holds a tokenizer.json, which this version does not read, and no "
                               "{}; copy that from the model's page",
                               part.file),
                   part.role);
        }
    }
    const auto scheduler = folder / "scheduler" / "scheduler_config.json";
    if (fs::exists(scheduler)) {
        layout.scheduler = scheduler;
    }
    return layout;
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
        if (named && name.ends_with(ending) && !name.starts_with(".")) {
            found.push_back(entry.path());
        }
    }
    return found.size() == 1 ? found.front() : fs::path();
}

/// A network of an original release or among loose files: by its name, then by its content; a clear
/// word on the .pth that is there instead.
fs::path original_part(const fs::path& folder, const Part& part) {
    for (const char* ending : {".safetensors.index.json", ".safetensors"}) {
        if (const auto path = find_file(folder, part.words, ending); !path.empty()) {
            return path;
        }
    }
    std::vector<fs::path> found;
    for (const auto& file : weight_files_in(folder)) {
        if (holds(file, part)) {
            found.push_back(file);
        }
    }
    if (found.size() == 1) {
        return found.front();
    }
    if (found.size() > 1) {
        if (are_experts(found)) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("'{}' {}", folder.string(), kTwoExperts));
        }
        refuse(folder,
               fmt::format("holds {} files that are each a {} ({}); choose one by name",
                           found.size(), part.title, file_names(found)),
               part.role);
    }
    if (const auto path = find_file(folder, part.words, ".pth"); !path.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is a .pth file; convert it once (quantsparse-calibrate "
                                "converts the folder '{}')",
                                path.string(), folder.string()));
    }
    refuse(folder,
           fmt::format("holds no .safetensors or .gguf file with the {}, by name ('{}') or by "
                       "content; give the model's folder, or name the file",
                       part.title, part.words.front()),
           part.role);
}

/// An original release's folder, its .pth files converted, or one with loose files.
Layout original(const ModelFiles& files, const Architecture& architecture) {
    const fs::path& folder = files.model;
    if (fs::is_directory(folder / "high_noise_model") ||
        fs::is_directory(folder / "low_noise_model")) {
        throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", folder.string(), kTwoExperts));
    }
    Layout layout;
    layout.architecture = &architecture;
    for (const auto& part : architecture.parts) {
        const bool first = &part == &architecture.parts.front();
        const fs::path config = folder / "config.json";  // the transformer's, which comes first
        if (!files.parts.contains(part.role)) {
            layout.parts[part.role] = {original_part(folder, part),
                                       first && fs::exists(config) ? config : fs::path()};
        }
    }
    for (const auto& part : architecture.tokenizers) {
        for (const auto& place : part.places) {
            if (fs::exists(folder / place)) {
                layout.tokenizers[part.role] = folder / place;
                break;
            }
        }
    }
    return layout;
}

/// ComfyUI's models folder; its text encoders carry the tokenizer as a tensor, or have it beside
/// them.
Layout comfyui(const ModelFiles& files, const Architecture& architecture) {
    Layout layout;
    layout.architecture = &architecture;
    for (const auto& part : architecture.parts) {
        if (files.parts.contains(part.role)) {
            continue;
        }
        const auto folder = files.model / part.comfyui_folder;
        if (!fs::is_directory(folder)) {
            const bool old = fs::is_directory(files.model / part.comfyui_old_folder);
            refuse(files.model,
                   old ? fmt::format("has the folder '{}' of older versions of ComfyUI; rename it "
                                     "to '{}', or name the file in it",
                                     part.comfyui_old_folder, part.comfyui_folder)
                       : fmt::format("lacks the folder '{}'; copy the {} there, or name its file",
                                     part.comfyui_folder, part.title),
                   part.role);
        }
        layout.parts[part.role] = {choose_by_content(folder, part), {}};
    }
    for (const auto& part : architecture.tokenizers) {
        if (const auto encoder = layout.parts.find(part.encoder); encoder != layout.parts.end()) {
            const auto& weights = encoder->second.weights;
            const auto beside =
                (fs::is_directory(weights) ? weights : weights.parent_path()) / part.file;
            if (fs::exists(beside)) {
                layout.tokenizers[part.role] = beside;
            }
        }
    }
    return layout;
}

/// A file of weights in the place of a model: one network, whose companions are named.
Layout single_file(const ModelFiles& files, const Architecture& architecture) {
    Layout layout;
    layout.architecture = &architecture;
    const auto names = names_of(files.model);
    std::vector<std::string> missing;
    for (const auto& part : architecture.parts) {
        if (find_prefix(network_kind(part.kind), names)) {
            layout.parts[part.role] = {files.model, {}};
        } else if (!files.parts.contains(part.role)) {
            missing.push_back(part.role);
        }
    }
    if (layout.parts.empty()) {
        const auto what = what_network(names);
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' {}; give the folder of a whole model, or a file made by "
                                "quantsparse-calibrate",
                                files.model.string(),
                                what.empty() ? "holds no network that this version knows" : what));
    }
    if (missing.empty() && files.parts.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' holds the {} networks of a whole model in one file; name it "
                                "for each of them (transformer, text_encoder, vae)",
                                files.model.string(), architecture.parts.size()),
                    architecture.parts.front().role);
    }
    if (!missing.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is a single network, not a whole {} model; name the files "
                                "for {} as well, or give the folder that holds all",
                                files.model.string(), architecture.title, list_names(missing)),
                    missing.front());
    }
    return layout;
}

/// The snapshot of a hub's cache folder.
fs::path snapshot_of(const fs::path& folder) {
    const auto snapshots = folder / "snapshots";
    if (!fs::is_directory(snapshots)) {
        return folder;
    }
    if (fs::exists(folder / "refs" / "main")) {
        auto name = read_small_text(folder / "refs" / "main", 4096);
        name.erase(std::remove_if(name.begin(), name.end(),
                                  [](unsigned char c) { return std::isspace(c) || c == '/'; }),
                   name.end());
        if (fs::is_directory(snapshots / name)) {
            return snapshots / name;
        }
    }
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(snapshots)) {
        found.push_back(entry.path());
    }
    if (found.size() == 1) {
        return found.front();
    }
    refuse(folder,
           fmt::format("is a hub's cache with {} snapshots; give one of the folders in '{}'",
                       found.size(), snapshots.string()));
}

bool is_comfyui(const fs::path& folder, const Architecture& architecture) {
    const Part& first = architecture.parts.front();
    return fs::is_directory(folder / first.comfyui_folder) ||
           fs::is_directory(folder / first.comfyui_old_folder);
}

Layout of_model(const ModelFiles& files) {
    const Architecture& usual = architectures().front();
    if (files.model.empty()) {
        Layout layout;
        layout.architecture = &usual;
        return layout;
    }
    if (!fs::is_directory(files.model)) {
        return single_file(files, usual);
    }
    if (fs::exists(files.model / "model_index.json")) {
        return diffusers(files);
    }
    return is_comfyui(files.model, usual) ? comfyui(files, usual) : original(files, usual);
}

}  // namespace

Layout find_layout(const ModelFiles& files) {
    ModelFiles resolved = files;
    if (!files.model.empty() && fs::is_directory(files.model)) {
        resolved.model = snapshot_of(files.model);
    }
    Layout layout = of_model(resolved);
    for (const auto& [role, path] : files.parts) {
        const auto& tokenizers = layout.architecture->tokenizers;
        if (std::any_of(tokenizers.begin(), tokenizers.end(),
                        [&, name = role](const auto& part) { return part.role == name; })) {
            layout.tokenizers[role] = path;
            continue;
        }
        // A folder has its configuration in it; a single file is told by its shapes, whatever the
        // model's own configuration says.
        const auto config = fs::is_directory(path) ? path / "config.json" : fs::path();
        layout.parts[role] = {path, fs::exists(config) ? config : fs::path()};
    }
    for (const auto& part : layout.architecture->parts) {
        if (!layout.parts.contains(part.role)) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("no file is named for the {}; name it, or give the model's "
                                    "folder",
                                    part.title),
                        part.role);
        }
    }
    return layout;
}

}  // namespace quantsparse::format
