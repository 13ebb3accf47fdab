#include "format/find_weights.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "format/file_kind.hpp"
#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLargestIndex = 64 << 20;

bool is_index(const std::string& name) {
    return name.ends_with(".json") && name.find(".safetensors") != std::string::npos &&
           name.find(".index") != std::string::npos;
}

bool is_weights(const std::string& name) {
    return name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".sft");
}

std::vector<std::string> names_in(const fs::path& folder) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) {
        auto name = entry.path().filename().string();
        if (!name.starts_with(".")) {
            names.push_back(std::move(name));
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

/// The files an index names; each must be a plain name beside the index.
WeightFiles indexed(const fs::path& index_path) {
    const auto text = read_small_text(index_path, kLargestIndex);
    const auto index = nlohmann::json::parse(text, nullptr, false);
    if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object() ||
        index["weight_map"].empty()) {
        const auto what = what_it_is(std::as_bytes(std::span(text)));
        throw Error(ErrorCode::bad_file,
                    fmt::format("'{}' {}", index_path.string(),
                                what.empty() || text.starts_with('{')
                                    ? "is not a usable index: it has no weight_map"
                                    : what));
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
    WeightFiles result{index_path, {}};
    for (const auto& file : files) {
        result.files.push_back(index_path.parent_path() / file);
    }
    return result;
}

/// The number of shards that a name like "model-00001-of-00003.safetensors" speaks of; 0: it is no
/// shard.
int shards_of(const std::string& name) {
    const auto of = name.rfind("-of-");
    int count = 0;
    if (of != std::string::npos) {
        std::from_chars(name.data() + of + 4, name.data() + name.size(), count);
    }
    return count;
}

/// All of one set of numbered shards without an index.
bool are_all_shards(const std::vector<std::string>& files) {
    const int count = shards_of(files.front());
    return static_cast<std::size_t>(count) == files.size() &&
           std::all_of(files.begin(), files.end(),
                       [&](const std::string& name) { return shards_of(name) == count; });
}

[[noreturn]] void refuse_nothing(const fs::path& folder, const std::vector<std::string>& names) {
    const auto found = std::find_if(names.begin(), names.end(), [](const std::string& name) {
        return name.ends_with(".incomplete") || name.ends_with(".part") ||
               name.ends_with(".aria2") || name.ends_with(".crdownload") ||
               name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt") ||
               name.ends_with(".ckpt");
    });
    std::string what = "holds no .safetensors or .gguf file; copy the network's weights there";
    if (found != names.end()) {
        const bool torch =
            found->ends_with("n") || found->ends_with("pth") || found->ends_with("pt");
        what = fmt::format(
            "holds '{}' in the place of weights, which is {}", printable(*found),
            torch ? "a PyTorch file (.bin, .pth): get the .safetensors file, or convert an "
                    "original release's folder with quantsparse-calibrate"
                  : "an unfinished (incomplete) download: let it finish, or download it again");
    }
    throw Error(ErrorCode::io, fmt::format("'{}' {}", folder.string(), what));
}

WeightFiles weights_in_folder(const fs::path& folder) {
    const auto names = names_in(folder);
    std::vector<std::string> indices;
    std::vector<std::string> files;
    for (const auto& name : names) {
        if (is_index(name)) {
            indices.push_back(name);
        } else if (is_weights(name)) {
            files.push_back(name);
        }
    }
    const auto has = [](const std::vector<std::string>& list, const std::string& name) {
        return std::find(list.begin(), list.end(), name) != list.end();
    };
    for (const std::string stem : {"diffusion_pytorch_model", "model"}) {
        if (has(indices, stem + ".safetensors.index.json")) {
            return indexed(folder / (stem + ".safetensors.index.json"));
        }
        if (has(files, stem + ".safetensors")) {
            return {folder / (stem + ".safetensors"), {folder / (stem + ".safetensors")}};
        }
    }
    if (indices.size() == 1) {
        return indexed(folder / indices.front());
    }
    if (indices.empty() && files.size() == 1) {
        return {folder / files.front(), {folder / files.front()}};
    }
    if (indices.empty() && files.empty()) {
        refuse_nothing(folder, names);
    }
    if (indices.empty() && are_all_shards(files)) {
        WeightFiles result{folder, {}};
        for (const auto& file : files) {
            result.files.push_back(folder / file);
        }
        return result;
    }
    const bool shards = indices.empty() && shards_of(files.front()) > 0;
    throw Error(ErrorCode::bad_file,
                fmt::format("'{}' holds {}, and which is meant isn't clear; {}", folder.string(),
                            list_names(indices.empty() ? files : indices),
                            shards ? "download the missing shards, or the index.json that lists "
                                     "them"
                                   : "leave the one to use"));
}

}  // namespace

std::vector<fs::path> weight_files_in(const fs::path& folder) {
    std::vector<fs::path> files;
    for (const auto& name : names_in(folder)) {
        if (is_weights(name)) {
            files.push_back(folder / name);
        }
    }
    return files;
}

WeightFiles find_weights(const fs::path& path) {
    if (!fs::exists(path)) {
        throw Error(ErrorCode::io, fmt::format("'{}' does not exist", path.string()));
    }
    if (fs::is_directory(path)) {
        return weights_in_folder(path);
    }
    return is_index(path.filename().string()) || path.string().ends_with(".index.json")
               ? indexed(path)
               : WeightFiles{path, {path}};
}

}  // namespace quantsparse::format
