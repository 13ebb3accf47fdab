// A whole model, wherever it came from: networks by role, tokenizers, defaults, quantisation.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "format/checkpoint.hpp"
#include "format/network.hpp"
#include "quantsparse/model_files.hpp"
#include "quantsparse/sampler.hpp"

namespace quantsparse::format {

/// One network of a model with its weights.
struct Component {
    Network network;
    std::shared_ptr<const Checkpoint> checkpoint;  ///< nullptr: shapes alone are known
};

/// Bits of a group of linears; 16: floating point.
struct LinearBits {
    int weights = 16;
    int activations = 16;
    /// Columns of the blocks in which the input is rotated; 0: as the model file says, by
    /// hadamard_block(); -1: it is not.
    int hadamard = 0;
    bool quantized() const { return weights < 16; }
    bool operator==(const LinearBits&) const = default;
};

/// How the linears of a model's transformers are kept.
/// Of a drift curve: at the noise levels 1, 0.98 ... 0.02.
inline constexpr std::size_t kDriftLevels = 50;

struct Quantization {
    LinearBits bits;                           ///< of groups that `groups` doesn't name
    std::map<std::string, LinearBits> groups;  ///< by "ffn_2", or "blocks.3.ffn_2" for one block
    std::string record;                        ///< JSON of the calibration; empty without one
    /// How far what sparse attention lacks has moved since a clip began, at kDriftLevels levels;
    /// never falls. Empty: not recorded.
    std::vector<float> drift;

    LinearBits of(std::string_view block_prefix, std::string_view group) const;
    LinearBits of(const NetworkBlock& block, const LinearGroup& group) const {
        return of(block.prefix, group.name);
    }
    bool quantized() const;
    std::string name() const;  ///< "none", "w4a8", or "w4a8 with exceptions"
};

/// What a model wants to be run with where nobody says otherwise.
struct GenerationDefaults {
    double flow_shift = 5.0;
    double guidance_scale = 5.0;
    int steps = 50;
    Sampler sampler = Sampler::unipc;
    double fps = 16;
    int native_width = 832, native_height = 480, native_frames = 81;
};

struct ModelBundle {
    std::string architecture;  ///< "wan2.1-t2v": names an Architecture
    std::map<std::string, Component, std::less<>> components;  ///< by role: "transformer", "vae" …
    std::map<std::string, std::vector<std::byte>, std::less<>> tokenizers;  ///< by role
    GenerationDefaults defaults;
    Quantization quantization;
    std::vector<std::string> warnings;  ///< a line each: what the files hold that is not used

    /// Throws Error(bad_file) when the model has no such component.
    const Component& at(std::string_view role) const;
    const Network& network(std::string_view role) const { return at(role).network; }
    const std::vector<std::byte>& tokenizer(std::string_view role) const;
};

/// Opens a diffusers folder (model_index.json), an original release's folder, ComfyUI's models
/// folder, loose files, a file with all networks or a quantised model file, and checks that the
/// networks are complete, fit together, and hold nothing that would mean another model. Throws
/// Error(io|bad_file|unsupported).
ModelBundle open_model(const ModelFiles& files);
ModelBundle open_model(const std::filesystem::path& path);

/// The networks of a diffusers folder by their configurations alone; no weights are opened.
ModelBundle describe_model(const std::filesystem::path& folder);

}  // namespace quantsparse::format
