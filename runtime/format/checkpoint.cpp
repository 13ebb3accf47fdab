#include "format/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexEnding = ".safetensors.index.json";
constexpr std::size_t kLargestIndex = 64 << 20;

/// The files an index names, in its order of appearance; each must be a plain name beside the
/// index.
std::vector<fs::path> shards_of(const fs::path& index_path) {
    const auto text = read_small_text(index_path, kLargestIndex);
    const auto index = nlohmann::json::parse(text, nullptr, false);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object() ||
        index["weight_map"].empty()) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}' is not a usable index: it has no weight_map", index_path.string()));
    }
    std::set<std::string> files;
    for (const auto& [tensor, file] : index["weight_map"].items()) {
        const bool plain = file.is_string() && !file.get_ref<const std::string&>().empty() &&
                           fs::path(file.get<std::string>()).filename() == file.get<std::string>();
        if (!plain) {
            throw Error(ErrorCode::bad_file,
                        fmt::format("'{}' maps tensor '{}' to something that is no file name",
                                    index_path.string(), printable(tensor)));
        }
        files.insert(file.get<std::string>());
    }
    std::vector<fs::path> paths;
    for (const auto& file : files) {
        paths.push_back(index_path.parent_path() / file);
    }
    return paths;
}

/// The index or the only safetensors file of a folder. Among several (variants such as
/// model.fp16.safetensors) the one that has the layout's own name.
fs::path weights_in_folder(const fs::path& folder) {
    for (const char* stem : {"diffusion_pytorch_model", "model"}) {
        for (const std::string_view ending : {kIndexEnding, std::string_view(".safetensors")}) {
            const auto path = folder / std::string(stem).append(ending);
            if (fs::exists(path)) {
                return path;
            }
        }
    }
    std::vector<fs::path> indices;
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const auto name = entry.path().filename().string();
        if (name.ends_with(kIndexEnding)) {
            indices.push_back(entry.path());
        } else if (name.ends_with(".safetensors")) {
            files.push_back(entry.path());
        }
    }
    if (indices.size() == 1) {
        return indices.front();
    }
    if (indices.empty() && files.size() == 1) {
        return files.front();
    }
    throw Error(
        files.empty() && indices.empty() ? ErrorCode::io : ErrorCode::bad_file,
        fmt::format("'{}' holds {} .safetensors files and {} indices where one is expected; "
                    "leave the one to use",
                    folder.string(), files.size(), indices.size()));
}

std::vector<std::int64_t> without_ones(std::vector<std::int64_t> shape) {
    std::erase(shape, 1);
    return shape;
}

/// The same values in the same order, as writers of GGUF leave shapes: without dimensions of one
/// (gguf fact 47), or, for ggml's four dimensions, the two outermost of five as one.
bool same_for_ggml(const std::vector<std::int64_t>& stored, std::vector<std::int64_t> wanted) {
    if (without_ones(stored) == without_ones(wanted)) {
        return true;
    }
    if (wanted.size() != 5) {
        return false;
    }
    wanted[1] *= wanted[0];
    wanted.erase(wanted.begin());
    return stored == wanted;
}

/// The first of the kind's prefixes that a name begins with; empty: the file holds nothing else.
std::string prefix_of(const NetworkKind& kind, const std::vector<std::string>& names) {
    for (const auto& prefix : kind.prefixes) {
        const bool met = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return name.starts_with(prefix);
        });
        if (met) {
            return prefix;
        }
    }
    return {};
}

/// GGUF files say what they are for, except those of stable-diffusion.cpp.
void require_architecture(const TensorSource& file, const NetworkKind& kind) {
    const auto said = file.metadata().find("general.architecture");
    const auto& known = kind.gguf_architectures;
    if (said == file.metadata().end() || known.empty() ||
        std::find(known.begin(), known.end(), said->second) != known.end()) {
        return;
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("'{}' holds a model of the architecture '{}' where '{}' is needed; "
                            "give the file of the right network",
                            file.path().string(), printable(said->second), known.front()));
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& path, std::vector<std::shared_ptr<const TensorSource>> files,
                       const NetworkKind& kind, std::optional<std::string> prefix)
    : path_(path), files_(std::move(files)) {
    std::vector<std::string> names;
    for (const auto& file : files_) {
        require_architecture(*file, kind);
        of_ggml_ = of_ggml_ || file->has_ggml_shapes();
        for (const auto& [name, view] : file->tensors()) {
            names.push_back(name);
        }
    }
    const std::string start = prefix ? *prefix : prefix_of(kind, names);
    std::erase_if(names, [&](const std::string& name) { return !name.starts_with(start); });
    for (auto& name : names) {
        name.erase(0, start.size());
    }
    const Renamer canonical_name = kind.renamer(names);
    for (const auto& file : files_) {
        for (const auto& [name, view] : file->tensors()) {
            if (!name.starts_with(start)) {
                continue;
            }
            const auto canonical = canonical_name(std::string_view(name).substr(start.size()));
            if (!canonical) {
                continue;
            }
            if (*canonical == "scaled_fp8" || canonical->ends_with(".scale_weight")) {
                throw Error(ErrorCode::unsupported,
                            fmt::format("'{}' holds scaled fp8 weights ('{}'), which this version "
                                        "does not read; use the fp16 or bf16 file",
                                        path.string(), printable(name)));
            }
            TensorView renamed = view;
            renamed.name = *canonical;
            if (!tensors_.emplace(*canonical, std::move(renamed)).second) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("'{}' holds the tensor '{}' more than once", path.string(),
                                        printable(*canonical)));
            }
        }
    }
}

Checkpoint Checkpoint::open(const fs::path& path, const NetworkKind& kind) {
    if (!fs::exists(path)) {
        throw Error(ErrorCode::io, fmt::format("'{}' does not exist", path.string()));
    }
    const fs::path source = fs::is_directory(path) ? weights_in_folder(path) : path;
    const bool indexed = source.string().ends_with(".index.json");
    std::vector<std::shared_ptr<const TensorSource>> files;
    for (const auto& file : indexed ? shards_of(source) : std::vector<fs::path>{source}) {
        files.push_back(open_tensor_source(file));
    }
    return Checkpoint(source, std::move(files), kind);
}

const TensorView* Checkpoint::find(std::string_view canonical_name) const {
    const auto position = tensors_.find(canonical_name);
    return position == tensors_.end() ? nullptr : &position->second;
}

const TensorView& Checkpoint::at(std::string_view canonical_name) const {
    if (const auto* view = find(canonical_name)) {
        return *view;
    }
    throw Error(ErrorCode::bad_file, fmt::format("'{}' has no tensor '{}'; it is incomplete or of "
                                                 "another model",
                                                 path_.string(), printable(canonical_name)));
}

const TensorView& Checkpoint::at(std::string_view canonical_name,
                                 const std::vector<std::int64_t>& shape) const {
    const auto& view = at(canonical_name);
    const bool fits = view.shape == shape || (of_ggml_ && same_for_ggml(view.shape, shape));
    if (!fits) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' has shape {} where the configuration asks for "
                                "{}; the configuration and the weights are of different models",
                                printable(canonical_name), path_.string(), shape_text(view.shape),
                                shape_text(shape)));
    }
    return view;
}

std::vector<std::string> Checkpoint::names() const {
    std::vector<std::string> result;
    for (const auto& [name, view] : tensors_) {
        result.push_back(name);
    }
    return result;
}

}  // namespace quantsparse::format
