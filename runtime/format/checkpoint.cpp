#include "format/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "format/encoded_weights.hpp"
#include "format/find_weights.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Where all of a set of marks are found under one prefix.
std::vector<std::string> prefixes_of(const std::vector<std::string>& marks,
                                     const std::set<std::string, std::less<>>& names) {
    std::vector<std::string> found;
    for (const auto& name : names) {
        if (!name.ends_with(marks.front())) {
            continue;
        }
        const auto prefix = name.substr(0, name.size() - marks.front().size());
        const bool whole = prefix.empty() || prefix.back() == '.';
        if (whole && std::all_of(marks.begin(), marks.end(), [&](const std::string& mark) {
                return names.contains(prefix + mark);
            })) {
            found.push_back(prefix);
        }
    }
    return found;
}

}  // namespace

std::optional<std::string> find_prefix(const NetworkKind& kind,
                                       const std::vector<std::string>& names) {
    const std::set<std::string, std::less<>> sorted(names.begin(), names.end());
    std::vector<std::string> found;
    for (const auto& marks : kind.marks) {
        const auto prefixes = prefixes_of(marks, sorted);
        found.insert(found.end(), prefixes.begin(), prefixes.end());
    }
    if (found.empty()) {
        return std::nullopt;
    }
    // Bare names before the prefixes that are usual, and those before others, such as an average's.
    for (const auto& usual : kind.prefixes) {
        if (std::find(found.begin(), found.end(), usual) != found.end()) {
            return usual;
        }
    }
    return *std::min_element(found.begin(), found.end(),
                             [](const auto& a, const auto& b) { return a.size() < b.size(); });
}

namespace {

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

/// For files without the marks, which are damaged or hold a part: the first usual prefix that a
/// name begins with.
std::string prefix_met(const NetworkKind& kind, const std::vector<std::string>& names) {
    for (const auto& prefix : kind.prefixes) {
        const bool met = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return !prefix.empty() && name.starts_with(prefix);
        });
        if (met) {
            return prefix;
        }
    }
    return {};
}

/// `layers` of the header's JSON about quantisation, by module.
json stated_layers(const TensorSource& file) {
    const auto entry = file.metadata().find("_quantization_metadata");
    if (entry == file.metadata().end()) {
        return json::object();
    }
    const auto object = json::parse(entry->second, nullptr, false);
    if (!object.is_object() || !object.contains("layers") || !object["layers"].is_object()) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}': _quantization_metadata of its header has no layers, so its "
                                "quantisation isn't known; download the file again",
                                file.path().string()));
    }
    return object["layers"];
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
    for (const auto& file : files_) {
        require_architecture(*file, kind);
        of_ggml_ = of_ggml_ || file->has_ggml_shapes();
    }
    const std::vector<std::string> names = names_on_disk();
    const auto marked = prefix ? prefix : find_prefix(kind, names);
    recognised_ = marked.has_value();
    prefix_ = marked.value_or(prefix_met(kind, names));
    std::vector<std::string> own;
    for (const auto& name : names) {
        if (name.starts_with(prefix_)) {
            own.push_back(name.substr(prefix_.size()));
        } else {
            outside_.push_back(name);
        }
    }
    const Renamer canonical_name = kind.renamer(own);
    for (const auto& file : files_) {
        for (const auto& [name, view] : file->tensors()) {
            if (name.starts_with(prefix_)) {
                add(view, canonical_name(std::string_view(name).substr(prefix_.size())));
            }
        }
        const json layers = stated_layers(*file);
        for (const auto& [module, object] : layers.items()) {
            const bool prefixed = module.starts_with(prefix_);
            const auto weight = module.substr(prefixed ? prefix_.size() : 0) + ".weight";
            if (const auto canonical = canonical_name(weight)) {
                stated_[canonical->substr(0, canonical->size() - 7)] = object;
            }
        }
    }
}

void Checkpoint::add(const TensorView& view, const std::optional<std::string>& canonical) {
    if (!canonical) {
        return;
    }
    TensorView renamed = view;
    renamed.name = *canonical;
    if (!tensors_.emplace(*canonical, std::move(renamed)).second) {
        throw Error(ErrorCode::bad_file, fmt::format("'{}' holds the tensor '{}' more than once",
                                                     path_.string(), printable(*canonical)));
    }
}

Checkpoint Checkpoint::open(const fs::path& path, const NetworkKind& kind) {
    const auto weights = find_weights(path);
    std::vector<std::shared_ptr<const TensorSource>> files;
    for (const auto& file : weights.files) {
        files.push_back(open_tensor_source(file));
    }
    Checkpoint checkpoint(weights.path, std::move(files), kind);
    decode_weights(checkpoint);
    return checkpoint;
}

std::vector<std::string> Checkpoint::names_on_disk() const {
    std::vector<std::string> names;
    for (const auto& file : files_) {
        for (const auto& [name, view] : file->tensors()) {
            names.push_back(name);
        }
    }
    return names;
}

const TensorView* Checkpoint::find_outside(std::string_view name) const {
    const auto end = fmt::format(".{}", name);
    for (const auto& file : files_) {
        for (const auto& [on_disk, view] : file->tensors()) {
            if (on_disk == name || on_disk.ends_with(end)) {
                return &view;
            }
        }
    }
    return nullptr;
}

const int* Checkpoint::native(std::string_view linear) const {
    const auto found = native_.find(linear);
    return found == native_.end() ? nullptr : &found->second;
}

const json* Checkpoint::stated_encoding(std::string_view linear) const {
    const auto found = stated_.find(linear);
    return found == stated_.end() ? nullptr : &found->second;
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
