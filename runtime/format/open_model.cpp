// Finding the three networks of a text-to-video model in the layouts people have, and checking that
// they fit together.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "format/checkpoint.hpp"
#include "format/checkpoint_impl.hpp"
#include "format/config_json.hpp"
#include "format/mapped_file.hpp"
#include "format/model_file.hpp"
#include "format/required_tensors.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kLargestConfig = 4 << 20;
constexpr std::size_t kLargestTokenizer = 64 << 20;  ///< UMT5's has 4.5 MB

json read_json(const fs::path& path) {
    return parse_json_object(read_small_text(path, kLargestConfig), path.string());
}

std::shared_ptr<Checkpoint> open_shared(const fs::path& path, Component component) {
    return std::make_shared<Checkpoint>(Checkpoint::open(path, component));
}

[[noreturn]] void refuse_folder(const fs::path& folder, const std::string& what) {
    throw Error(ErrorCode::io, fmt::format("'{}' {}", folder.string(), what));
}

/// A diffusers pipeline folder.
ModelBundle open_diffusers(const fs::path& folder) {
    const fs::path index_path = folder / "model_index.json";
    const json index = read_json(index_path);
    if (!index.contains("_class_name") || index["_class_name"] != "WanPipeline") {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}' describes the pipeline {}; this version runs WanPipeline "
                        "(Wan2.1 text-to-video)",
                        index_path.string(),
                        index.contains("_class_name") ? printable(index["_class_name"].dump())
                                                      : "without a _class_name"));
    }
    for (const char* part : {"transformer", "text_encoder", "vae", "tokenizer"}) {
        if (!fs::is_directory(folder / part)) {
            refuse_folder(folder, fmt::format("lacks the folder '{}'; copy the whole model", part));
        }
    }
    ModelBundle bundle;
    const auto config_of = [&](const char* part) { return folder / part / "config.json"; };
    bundle.transformer_config = wan_dit_config_from_json(read_json(config_of("transformer")),
                                                         config_of("transformer").string());
    bundle.text_encoder_config = umt5_config_from_json(read_json(config_of("text_encoder")),
                                                       config_of("text_encoder").string());
    bundle.vae_config =
        wan_vae_config_from_json(read_json(config_of("vae")), config_of("vae").string());
    const fs::path scheduler = folder / "scheduler" / "scheduler_config.json";
    if (fs::exists(scheduler)) {
        bundle.flow_shift = number_or(read_json(scheduler), "flow_shift", bundle.flow_shift, 1e-3,
                                      1000, scheduler.string());
    }
    read_generation_defaults(index, index_path.string(), bundle);
    bundle.transformer = open_shared(folder / "transformer", Component::transformer);
    bundle.text_encoder = open_shared(folder / "text_encoder", Component::text_encoder);
    bundle.vae = open_shared(folder / "vae", Component::vae);
    bundle.tokenizer = read_small_file(folder / "tokenizer" / "spiece.model", kLargestTokenizer);
    return bundle;
}

/// The one file of the folder that has the ending and any of the words in its name.
fs::path find_file(const fs::path& folder, std::initializer_list<const char*> words,
                   const char* ending) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder)) {
        const auto name = entry.path().filename().string();
        const bool named = std::any_of(words.begin(), words.end(), [&](const char* word) {
            return name.find(word) != std::string::npos;
        });
        if (named && name.ends_with(ending)) {
            found.push_back(entry.path());
        }
    }
    return found.size() == 1 ? found.front() : fs::path();
}

/// A network of an original release: safetensors, or a clear word on the .pth that is there
/// instead.
fs::path original_part(const fs::path& folder, std::initializer_list<const char*> words,
                       const char* what) {
    for (const char* ending : {".safetensors.index.json", ".safetensors"}) {
        if (const auto path = find_file(folder, words, ending); !path.empty()) {
            return path;
        }
    }
    if (const auto path = find_file(folder, words, ".pth"); !path.empty()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("'{}' is a .pth file; convert it once with quantsparse-calibrate "
                                "--convert-only --model {}",
                                path.string(), folder.string()));
    }
    refuse_folder(folder, fmt::format("has no single .safetensors file for the {} (a name with "
                                      "'{}')",
                                      what, *words.begin()));
}

/// An original Wan2.1 release folder, its .pth files converted.
ModelBundle open_original(const fs::path& folder) {
    ModelBundle bundle;
    const fs::path transformer = original_part(
        folder, {"diffusion_pytorch_model", "wan2.1_t2v", "transformer"}, "transformer");
    const fs::path text_encoder = original_part(folder, {"t5"}, "text encoder");
    const fs::path vae = original_part(folder, {"VAE", "vae"}, "VAE");
    bundle.transformer = open_shared(transformer, Component::transformer);
    bundle.text_encoder = open_shared(text_encoder, Component::text_encoder);
    bundle.vae = open_shared(vae, Component::vae);
    const fs::path config = folder / "config.json";
    bundle.transformer_config = fs::exists(config)
                                    ? wan_dit_config_from_json(read_json(config), config.string())
                                    : infer_wan_dit_config(*bundle.transformer);
    bundle.text_encoder_config = infer_umt5_config(*bundle.text_encoder);
    bundle.vae_config = infer_wan_vae_config(*bundle.vae);
    for (const char* place :
         {"google/umt5-xxl/spiece.model", "spiece.model", "tokenizer/spiece.model"}) {
        if (fs::exists(folder / place)) {
            bundle.tokenizer = read_small_file(folder / place, kLargestTokenizer);
        }
    }
    if (bundle.tokenizer.empty()) {
        refuse_folder(folder, "lacks google/umt5-xxl/spiece.model; copy it from the release");
    }
    return bundle;
}

/// ComfyUI's models folder with one file in each of three subfolders; its UMT5 files carry the
/// sentencepiece model as a tensor.
ModelBundle open_comfyui(const fs::path& folder) {
    ModelBundle bundle;
    bundle.transformer = open_shared(folder / "diffusion_models", Component::transformer);
    bundle.text_encoder = open_shared(folder / "text_encoders", Component::text_encoder);
    bundle.vae = open_shared(folder / "vae", Component::vae);
    bundle.transformer_config = infer_wan_dit_config(*bundle.transformer);
    bundle.text_encoder_config = infer_umt5_config(*bundle.text_encoder);
    bundle.vae_config = infer_wan_vae_config(*bundle.vae);
    const auto& tokenizer = bundle.text_encoder->at("spiece_model");
    bundle.tokenizer.assign(tokenizer.bytes.begin(), tokenizer.bytes.end());
    return bundle;
}

ModelBundle open_model_file(const fs::path& path) {
    const auto file = std::make_shared<SafetensorsFile>(path);
    const auto format = file->metadata().find("format");
    if (format == file->metadata().end() || format->second != "quantsparse") {
        throw Error(
            ErrorCode::unsupported,
            fmt::format("'{}' is a single network, not a whole text-to-video model; give the "
                        "folder with transformer, text encoder and VAE, or a file made by "
                        "quantsparse-calibrate",
                        path.string()));
    }
    ModelBundle bundle;
    read_model_file_metadata(file->metadata(), path.string(), bundle);
    const auto view = [&](Component component) {
        return std::make_shared<Checkpoint>(make_checkpoint(path, {file}, component));
    };
    bundle.transformer = view(Component::transformer);
    bundle.text_encoder = view(Component::text_encoder);
    bundle.vae = view(Component::vae);
    const auto& tokenizer = file->at("tokenizer.model");
    bundle.tokenizer.assign(tokenizer.bytes.begin(), tokenizer.bytes.end());
    return bundle;
}

void check_fit(const fs::path& path, bool fits, const char* one, int one_value, const char* other,
               int other_value) {
    if (!fits) {
        throw Error(
            ErrorCode::bad_file,
            fmt::format("'{}': {} is {} but {} is {}; these networks do not belong together",
                        path.string(), one, one_value, other, other_value));
    }
}

void check_bundle(const fs::path& path, const ModelBundle& bundle) {
    const auto& dit = bundle.transformer_config;
    const auto& text = bundle.text_encoder_config;
    const auto& vae = bundle.vae_config;
    check_fit(path, dit.text_dim == text.dim, "the transformer's text_dim", dit.text_dim,
              "the text encoder's dim", text.dim);
    check_fit(path, dit.in_dim == vae.z_dim, "the transformer's in_dim", dit.in_dim,
              "the VAE's z_dim", vae.z_dim);
    check_fit(path, dit.out_dim == dit.in_dim, "the transformer's out_dim", dit.out_dim,
              "its in_dim", dit.in_dim);
    if (bundle.weight_bits == 16) {
        check_tensors(*bundle.transformer, "transformer", required_tensors(dit));
    } else {
        check_quantized_tensors(*bundle.transformer, dit, bundle.weight_bits);
    }
    check_tensors(*bundle.text_encoder, "text encoder", required_tensors(text));
    const bool encoder = bundle.vae->find("encoder.conv1.weight") != nullptr;
    check_tensors(*bundle.vae, "VAE", required_tensors(vae, encoder));
}

}  // namespace

ModelBundle open_model(const fs::path& path) {
    if (!fs::exists(path)) {
        throw Error(ErrorCode::io,
                    fmt::format("the model '{}' does not exist; check the path", path.string()));
    }
    ModelBundle bundle;
    if (!fs::is_directory(path)) {
        bundle = open_model_file(path);
    } else if (fs::exists(path / "model_index.json")) {
        bundle = open_diffusers(path);
    } else if (fs::is_directory(path / "diffusion_models")) {
        bundle = open_comfyui(path);
    } else {
        bundle = open_original(path);
    }
    bundle.architecture = kArchitectureWan21T2v;
    bundle.text_encoder_config.text_len = bundle.transformer_config.text_len;
    check_bundle(path, bundle);
    return bundle;
}

}  // namespace quantsparse::format
