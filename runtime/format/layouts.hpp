// Where the networks of a model lie: diffusers folders, original releases, ComfyUI's models folder,
// a folder or a file of loose weights, and files named one by one.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "format/architecture.hpp"
#include "format/model_bundle.hpp"

namespace quantsparse::format {

/// Of one network.
struct Place {
    std::filesystem::path weights;  ///< what find_weights() takes
    std::filesystem::path config;   ///< empty: told by the tensors' shapes
};

/// A model found on disk, not opened yet.
struct Layout {
    const Architecture* architecture = nullptr;
    std::map<std::string, Place, std::less<>> parts;  ///< by role
    std::map<std::string, std::filesystem::path, std::less<>>
        tokenizers;                   ///< by role; others: in the encoder's file
    std::filesystem::path index;      ///< model_index.json, or empty
    std::filesystem::path scheduler;  ///< its configuration, or empty
};

/// Throws Error(io|bad_file|unsupported) with what is missing, or with the candidates where more
/// than one file could be meant; Error::field() is then the role to name.
Layout find_layout(const ModelFiles& files);

}  // namespace quantsparse::format
