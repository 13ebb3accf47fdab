// What a network is to everybody who does not run it: its configuration, its tensors, and which of
// its linears may be quantised. The loader, the model file, the calibrator and the byte counts walk
// this description and know no network; what is special about one lies in networks/<kind>.cpp.
#pragma once

#include <any>
#include <array>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::format {

class Checkpoint;

/// A tensor that the network can't do without, under its canonical name.
struct TensorSpec {
    std::string name;
    std::vector<std::int64_t> shape;
};

/// y = x W^T + b; `name` counts from the block's prefix: "self_attn.q".
struct LinearSpec {
    std::string name;
    int out_features = 0;
    int in_features = 0;
    bool bias = true;
};

/// Linears of a block that read the same rows, so that they share channel scale and rotation. The
/// first of them, the head, carries what belongs to the input in a model file.
struct LinearGroup {
    std::string name;  ///< "self_qkv"
    int width = 0;     ///< in_features of all of them
    std::vector<LinearSpec> linears;
    /// The rows depend on the prompt alone, not on the step: a few prompts give few different ones.
    bool once_per_prompt = false;
};

/// One transformer block: all linears that are quantised, in the order they run.
struct NetworkBlock {
    std::string prefix;  ///< "blocks.3."
    std::vector<LinearGroup> groups;
};

/// How a network sees a clip. Each kind fills in what it has.
struct NetworkGeometry {
    /// Transformer: latent cells of a token along frames, rows and columns.
    std::array<int, 3> patch = {1, 1, 1};
    /// Transformer: channels it takes and gives; autoencoder: channels of the latents, twice.
    int in_channels = 0, out_channels = 0;
    int space = 1, time = 1;  ///< autoencoder: pixels and frames of a latent cell
    int text_width = 0;   ///< transformer: of the text rows it takes; encoder: of those it gives
    int text_tokens = 0;  ///< transformer: the most text rows it takes
    int width = 0;        ///< transformer: of a block
};

struct Network {
    std::string kind;  ///< "wan-dit": names a NetworkKind
    std::any config;   ///< the kind's own struct
    NetworkGeometry geometry;
    std::vector<TensorSpec> tensors;
    /// Transformer: its self-attention was trained as sparse-linear attention (sla fact 88) and is
    /// nothing without that.
    bool sparse_linear = false;
    std::vector<NetworkBlock> blocks;  ///< those with linears that are quantised

    template <typename Config>
    const Config& config_as() const {
        return std::any_cast<const Config&>(config);
    }
};

/// The canonical name of a tensor, or nothing for one that does not belong to the network.
using Renamer = std::function<std::optional<std::string>(std::string_view name_on_disk)>;

/// Everything about a kind of network that depends on it. Plain functions; stateless.
struct NetworkKind {
    std::string name;
    /// Prefixes under which files usually keep this network, likeliest first; "": bare names.
    std::vector<std::string> prefixes;
    /// By which the network is known in a list of names: all of one of these sets, under one
    /// prefix. A set for each naming on disk.
    std::vector<std::vector<std::string>> marks;
    /// Canonical names, or beginnings of them, that files hold and nobody needs.
    std::vector<std::string> harmless;
    /// Keys of configurations, in every spelling, that describe() reads or that say nothing about
    /// what the network computes. Those that begin with "_" need no place here.
    std::vector<std::string> config_keys;
    /// `general.architecture` of GGUF files that hold it; empty: any is taken.
    std::vector<std::string> gguf_architectures = {};
    /// The description by a configuration in upstream's own or in diffusers' or Transformers'
    /// spelling. `checkpoint`: tells which optional parts are there; nullptr: none. Throws
    /// Error(bad_file) naming `where` and the field, Error(unsupported) for a relative of the
    /// network that this version does not run.
    Network (*describe)(const nlohmann::json& config, const Checkpoint* checkpoint,
                        const std::string& where) = nullptr;
    /// A configuration from the shapes of a checkpoint that came without one. What shapes don't
    /// tell takes the released models' values.
    nlohmann::json (*infer)(const Checkpoint& checkpoint) = nullptr;
    /// The configuration in upstream's own spelling, for model files.
    nlohmann::json (*config_json)(const Network& network) = nullptr;
    /// Made once per checkpoint, since the naming shows only in the whole list of names, which come
    /// without the prefix.
    Renamer (*renamer)(const std::vector<std::string>& names) = nullptr;
    /// The canonical name of one tensor in diffusers' spelling, for files that hold too few names
    /// to tell (adapters); nullptr: diffusers has no spelling of its own.
    std::string (*from_diffusers)(std::string name) = nullptr;
};

/// All linears of a block with their full names, in order.
std::vector<LinearSpec> linears_of(const NetworkBlock& block);
/// The same of a group.
std::vector<LinearSpec> linears_of(const NetworkBlock& block, const LinearGroup& group);

/// Collects the tensors of a description.
class TensorList {
  public:
    void add(const std::string& name, std::vector<std::int64_t> shape) {
        tensors_.push_back({name, std::move(shape)});
    }
    /// A weight of any rank whose first dimension is the output, and its bias.
    void with_bias(const std::string& name, const std::vector<std::int64_t>& shape) {
        add(name + ".weight", shape);
        add(name + ".bias", {shape.front()});
    }
    void add_linears(const NetworkBlock& block);
    std::vector<TensorSpec> take() { return std::move(tensors_); }

  private:
    std::vector<TensorSpec> tensors_;
};

}  // namespace quantsparse::format
