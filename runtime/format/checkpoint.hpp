// One network's tensors under one naming (the original Wan2.1 names), whatever the layout on disk:
// a diffusers folder, original Wan2.1 files, ComfyUI single files (prefix
// `model.diffusion_model.`), sharded or not, or a component of a quantised model file (prefixes
// `transformer.`, `text_encoder.`, `vae.`).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/model_config.hpp"
#include "format/safetensors.hpp"

namespace quantsparse::format {

enum class Component { transformer, text_encoder, vae };

/// A view of one network's tensors with canonical (original Wan2.1) names.
class Checkpoint {
  public:
    /// `path`: a .safetensors file, an .index.json, or a folder that holds either. Detects the
    /// naming.
    static Checkpoint open(const std::filesystem::path& path, Component component);

    const TensorView* find(std::string_view canonical_name) const;
    /// Throws Error(bad_file) naming file and tensor.
    const TensorView& at(std::string_view canonical_name) const;
    /// at() plus a shape check; the message gives both shapes.
    const TensorView& at(std::string_view canonical_name,
                         const std::vector<std::int64_t>& shape) const;
    std::vector<std::string> names() const;  ///< canonical, sorted
    const std::filesystem::path& path() const;

    ~Checkpoint();
    Checkpoint(Checkpoint&&) noexcept;
    Checkpoint& operator=(Checkpoint&&) noexcept;

    struct Impl;
    explicit Checkpoint(std::unique_ptr<Impl> impl);

  private:
    std::unique_ptr<Impl> impl_;
};

/// Everything text-to-video needs, wherever it came from.
struct ModelBundle {
    std::string architecture;           ///< "wan2.1-t2v"
    std::string quantization = "none";  ///< or "w4a8", "w6a6", "w8a8"…
    int weight_bits = 16;
    int activation_bits = 16;
    WanDitConfig transformer_config;
    Umt5Config text_encoder_config;
    WanVaeConfig vae_config;
    std::shared_ptr<Checkpoint> transformer;
    std::shared_ptr<Checkpoint> text_encoder;
    std::shared_ptr<Checkpoint> vae;
    std::vector<std::byte> tokenizer;  ///< a sentencepiece model (spiece.model)
    double flow_shift = 5.0;
    double guidance_scale = 5.0;
    int steps = 50;
    double fps = 16;
    int native_width = 832, native_height = 480, native_frames = 81;
    std::string quantization_record;  ///< JSON of the calibration, empty when not quantised
};

/// Opens a diffusers folder (model_index.json), an original Wan2.1 folder (safetensors), or a
/// quantised model file, and checks that the three networks fit together. Throws
/// Error(io|bad_file|unsupported). In a quantised file each quantised linear `<name>` (for example
/// `blocks.0.self_attn.q`) has
/// `<name>.codes` (U32), `<name>.scale` (F32 [out]), `<name>.bias`, optional `<name>.channel_scale`
/// (F32 [in], the c by which the activation is divided), optional `<name>.rotation_signs` (F32
/// [in],
/// +-1, the signed block Hadamard of `rotation_block` columns; see model_file.hpp).
ModelBundle open_model(const std::filesystem::path& path);

/// Derives the configuration from tensor shapes where no config.json is at hand.
WanDitConfig infer_wan_dit_config(const Checkpoint& checkpoint);

}  // namespace quantsparse::format
