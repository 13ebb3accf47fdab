// Which files of a folder hold a network's weights.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quantsparse::format {

/// Files that are one checkpoint together.
struct WeightFiles {
    std::filesystem::path path;  ///< for messages: the file, or the index
    std::vector<std::filesystem::path> files;
};

/// `path`: a file of weights, an index of several, or a folder that holds either: as diffusers and
/// Transformers name them, in a variant ("fp16"), in numbered shards, or under any name when there
/// is but one. Throws Error(io|bad_file) with what was found instead.
WeightFiles find_weights(const std::filesystem::path& path);

/// The files of a folder that hold weights by their endings, sorted; what file managers leave
/// behind is no such file.
std::vector<std::filesystem::path> weight_files_in(const std::filesystem::path& folder);

}  // namespace quantsparse::format
