// Which networks a kind of model consists of, where each layout keeps them, and what must be true
// for them to belong together.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quantsparse::format {

struct ModelBundle;

/// A network of the model.
struct Part {
    std::string role;                ///< also its folder in diffusers and its prefix in model files
    std::string kind;                ///< of network
    std::string title;               ///< in messages: "text encoder"
    std::vector<std::string> words;  ///< one is in the name of an original release's file
    std::string comfyui_folder;      ///< "diffusion_models"
    std::string comfyui_old_folder;  ///< "unet"
};

struct TokenizerPart {
    std::string role;                 ///< "tokenizer": its folder in diffusers
    std::string file;                 ///< "spiece.model"
    std::vector<std::string> places;  ///< in an original release, likeliest first
    std::string encoder, tensor;      ///< ComfyUI: role and tensor of the file that holds it
};

struct Architecture {
    std::string name;            ///< "wan2.1-t2v"
    std::string title;           ///< "Wan2.1 text-to-video"
    std::string pipeline_class;  ///< of diffusers' model_index.json
    std::vector<Part> parts;
    std::vector<TokenizerPart> tokenizers;
    /// Throws Error(bad_file) when the networks do not belong together; sets what one takes from
    /// another. `where` for messages.
    void (*fit)(ModelBundle& bundle, const std::string& where) = nullptr;
    /// Published models that can be described without a file; the first stands for the others.
    struct Released {
        std::string name;                     ///< "wan-1.3b"
        ModelBundle (*describe)() = nullptr;  ///< without weights
    };
    std::vector<Released> released;
};

/// Throws Error(bad_file) with both values unless they are equal; for Architecture::fit.
void require_equal(const std::string& where, const char* one, int one_value, const char* other,
                   int other_value);

}  // namespace quantsparse::format
