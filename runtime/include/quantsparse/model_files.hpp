// The files a model consists of.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace quantsparse {

struct ModelFiles {
    /// A folder (diffusers, an original release, ComfyUI's models folder, loose weights) or a file
    /// of quantsparse-calibrate; empty where `parts` names all.
    std::filesystem::path model;
    /// Files that stand in the place of the model's own, or for it: "transformer", "text_encoder",
    /// "vae", "tokenizer".
    std::map<std::string, std::filesystem::path> parts;
};

}  // namespace quantsparse
