// The names of tensors in LoRA files: what is common to the spellings that are met (lora fact 56).
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "format/network.hpp"

namespace quantsparse::format {

enum class AdapterPart {
    down,               ///< [rank, in]
    up,                 ///< [out, rank]
    up_bias,            ///< what `up` adds by itself
    alpha,              ///< a number
    weight_difference,  ///< added to the weight
    bias_difference,
    modulation_difference,  ///< added to the module's `modulation`
};

struct AdapterKey {
    std::string module;  ///< as the file spells it, prefix included
    AdapterPart part = AdapterPart::down;
};

/// Nothing for a name that is no LoRA's.
std::optional<AdapterKey> parse_adapter_key(std::string_view name);

/// What a tensor is called that belongs to another kind of adapter, for example "LoHa"; nothing for
/// all others.
std::optional<std::string_view> other_adapter_kind(std::string_view name);

/// A module as the file spells it, in two pieces.
struct ModuleSpelling {
    std::string_view prefix;  ///< "diffusion_model.", "lora_unet_", …, or empty
    std::string_view rest;
};
/// All ways to cut it, the longest prefix first.
std::vector<ModuleSpelling> spellings_of(std::string_view module);

/// The modules of a network by the names that LoRA files have for them.
class ModuleNames {
  public:
    explicit ModuleNames(const Network& network);

    /// The canonical name ("blocks.0.self_attn.q"); nothing for what the network lacks.
    std::optional<std::string> find(const ModuleSpelling& spelling) const;
    /// A tensor of the network, or nullptr.
    const TensorSpec* tensor(std::string_view name) const;
    /// The tensor that a module's weight is: `<module>.weight`, or the module itself.
    const TensorSpec* weight(const std::string& module) const;

  private:
    std::string (*from_diffusers_)(std::string) = nullptr;
    std::map<std::string, TensorSpec, std::less<>> tensors_;
    std::set<std::string, std::less<>> modules_;
    std::map<std::string, std::string, std::less<>> flat_;  ///< by the name with underscores
};

}  // namespace quantsparse::format
