// What a Checkpoint is made of; for checkpoint.cpp and open_model.cpp only.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "format/checkpoint.hpp"

namespace quantsparse::format {

struct Checkpoint::Impl {
    std::filesystem::path path;
    std::vector<std::shared_ptr<SafetensorsFile>> files;  ///< keep the mappings alive
    std::map<std::string, TensorView, std::less<>> tensors;
};

/// A view over files that are open already (the three networks of a quantised file share one).
Checkpoint make_checkpoint(const std::filesystem::path& path,
                           std::vector<std::shared_ptr<SafetensorsFile>> files,
                           Component component);

}  // namespace quantsparse::format
