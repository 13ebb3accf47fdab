#include "format/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "format/checkpoint_impl.hpp"
#include "format/mapped_file.hpp"
#include "format/tensor_names.hpp"
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

}  // namespace

Checkpoint make_checkpoint(const fs::path& path,
                           std::vector<std::shared_ptr<SafetensorsFile>> files,
                           Component component) {
    auto impl = std::make_unique<Checkpoint::Impl>();
    impl->path = path;
    impl->files = std::move(files);
    std::vector<std::string> names;
    for (const auto& file : impl->files) {
        for (const auto& [name, view] : file->tensors()) {
            names.push_back(name);
        }
    }
    const NameMapper mapper(component, names);
    for (const auto& file : impl->files) {
        for (const auto& [name, view] : file->tensors()) {
            auto canonical = mapper.canonical(name);
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
            if (!impl->tensors.emplace(*canonical, std::move(renamed)).second) {
                throw Error(ErrorCode::bad_file,
                            fmt::format("'{}' holds the tensor '{}' more than once", path.string(),
                                        printable(*canonical)));
            }
        }
    }
    return Checkpoint(std::move(impl));
}

Checkpoint Checkpoint::open(const fs::path& path, Component component) {
    if (!fs::exists(path)) {
        throw Error(ErrorCode::io, fmt::format("'{}' does not exist", path.string()));
    }
    const fs::path source = fs::is_directory(path) ? weights_in_folder(path) : path;
    const bool indexed = source.string().ends_with(".index.json");
    std::vector<std::shared_ptr<SafetensorsFile>> files;
    for (const auto& file : indexed ? shards_of(source) : std::vector<fs::path>{source}) {
        files.push_back(std::make_shared<SafetensorsFile>(file));
    }
    return make_checkpoint(source, std::move(files), component);
}

const TensorView* Checkpoint::find(std::string_view canonical_name) const {
    const auto position = impl_->tensors.find(canonical_name);
    return position == impl_->tensors.end() ? nullptr : &position->second;
}

const TensorView& Checkpoint::at(std::string_view canonical_name) const {
    if (const auto* view = find(canonical_name)) {
        return *view;
    }
    throw Error(ErrorCode::bad_file, fmt::format("'{}' has no tensor '{}'; it is incomplete or of "
                                                 "another model",
                                                 impl_->path.string(), printable(canonical_name)));
}

const TensorView& Checkpoint::at(std::string_view canonical_name,
                                 const std::vector<std::int64_t>& shape) const {
    const auto& view = at(canonical_name);
    if (view.shape != shape) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("tensor '{}' of '{}' has shape {} where the configuration asks for "
                                "{}; the configuration and the weights are of different models",
                                printable(canonical_name), impl_->path.string(),
                                shape_text(view.shape), shape_text(shape)));
    }
    return view;
}

std::vector<std::string> Checkpoint::names() const {
    std::vector<std::string> result;
    for (const auto& [name, view] : impl_->tensors) {
        result.push_back(name);
    }
    return result;
}

const fs::path& Checkpoint::path() const {
    return impl_->path;
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

}  // namespace quantsparse::format
