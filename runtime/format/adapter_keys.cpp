#include "format/adapter_keys.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "format/networks/registry.hpp"

namespace quantsparse::format {
namespace {

using Part = AdapterPart;

constexpr std::array<std::pair<std::string_view, Part>, 24> kEndings = {{
    {".lora_down.weight", Part::down},
    {".lora_A.weight", Part::down},
    {".lora_A.default.weight", Part::down},
    {".lora_A", Part::down},
    {"_lora.down.weight", Part::down},
    {".lora.down.weight", Part::down},
    {".lora_linear_layer.down.weight", Part::down},
    {".lora_up.weight", Part::up},
    {".lora_B.weight", Part::up},
    {".lora_B.default.weight", Part::up},
    {".lora_B", Part::up},
    {"_lora.up.weight", Part::up},
    {".lora.up.weight", Part::up},
    {".lora_linear_layer.up.weight", Part::up},
    {".lora_B.bias", Part::up_bias},
    {".lora_B.default.bias", Part::up_bias},
    {".lora_up.bias", Part::up_bias},
    {".alpha", Part::alpha},
    {".diff", Part::weight_difference},
    {".diff_b", Part::bias_difference},
    {".diff_m", Part::modulation_difference},
    // LyCORIS on norms.
    {".w_norm", Part::weight_difference},
    {".b_norm", Part::bias_difference},
    {".modulation.diff_m", Part::modulation_difference},
}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 13> kOtherKinds = {{
    {".hada_", "LoHa"},
    {".lokr_", "LoKr"},
    {".dora_scale", "DoRA"},
    {".lora_magnitude_vector", "DoRA"},
    {".lora_mid", "LoRA with a middle matrix (lora_mid)"},
    {".oft_", "OFT"},
    {".boft_", "BOFT"},
    {".vera_", "VeRA"},
    {".lora_embedding_", "LoRA of an embedding"},
    {".a1.weight", "GLoRA"},
    {".on_input", "(IA)3"},
    {".set_weight", "weights that replace the model's"},
    {".reshape_weight", "LoRA that changes the model's shapes"},
}};

// Longest first where one begins with another.
constexpr std::array<std::string_view, 8> kPrefixes = {
    "base_model.model.", "model.diffusion_model.",
    "diffusion_model.",  "transformer_2.",
    "transformer.",      "lora_unet__",
    "lora_unet_",        "lycoris_"};

std::string with_underscores(std::string name) {
    std::replace(name.begin(), name.end(), '.', '_');
    return name;
}

/// "blocks.0.norm3" of "blocks.0.norm3.weight"; a tensor that is neither weight nor bias is a
/// module of its own.
std::string module_of(const std::string& tensor) {
    for (const std::string_view ending : {".weight", ".bias"}) {
        if (tensor.ends_with(ending)) {
            return tensor.substr(0, tensor.size() - ending.size());
        }
    }
    return tensor;
}

}  // namespace

std::optional<AdapterKey> parse_adapter_key(std::string_view name) {
    std::optional<AdapterKey> found;
    std::size_t longest = 0;
    for (const auto& [ending, part] : kEndings) {
        if (ending.size() > longest && name.size() > ending.size() && name.ends_with(ending)) {
            longest = ending.size();
            found = {std::string(name.substr(0, name.size() - ending.size())), part};
        }
    }
    return found;
}

std::optional<std::string_view> other_adapter_kind(std::string_view name) {
    for (const auto& [piece, kind] : kOtherKinds) {
        if (name.find(piece) != std::string_view::npos) {
            return kind;
        }
    }
    return std::nullopt;
}

std::vector<ModuleSpelling> spellings_of(std::string_view module) {
    std::vector<ModuleSpelling> spellings;
    for (const auto prefix : kPrefixes) {
        if (module.starts_with(prefix)) {
            spellings.push_back({prefix, module.substr(prefix.size())});
        }
    }
    spellings.push_back({{}, module});
    return spellings;
}

ModuleNames::ModuleNames(const Network& network)
    : from_diffusers_(network_kind(network.kind).from_diffusers) {
    for (const auto& tensor : network.tensors) {
        tensors_.emplace(tensor.name, tensor);
        const std::string module = module_of(tensor.name);
        modules_.insert(module);
        // What a tensor like "head.modulation" belongs to can have a difference, too.
        if (const auto dot = tensor.name.rfind(".modulation"); dot != std::string::npos) {
            modules_.insert(tensor.name.substr(0, dot));
        }
    }
    for (const auto& module : modules_) {
        const auto [place, inserted] = flat_.emplace(with_underscores(module), module);
        if (!inserted) {
            place->second.clear();  // two modules would have the name: nobody can tell them apart
        }
    }
}

std::optional<std::string> ModuleNames::find(const ModuleSpelling& spelling) const {
    if (modules_.contains(spelling.rest)) {
        return std::string(spelling.rest);
    }
    if (const auto flat = flat_.find(spelling.rest); flat != flat_.end() && !flat->second.empty()) {
        return flat->second;
    }
    if (from_diffusers_ != nullptr) {
        const auto tensor = from_diffusers_(std::string(spelling.rest) + ".weight");
        const std::string module = module_of(tensor);
        if (modules_.contains(module)) {
            return module;
        }
    }
    return std::nullopt;
}

const TensorSpec* ModuleNames::tensor(std::string_view name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : &found->second;
}

const TensorSpec* ModuleNames::weight(const std::string& module) const {
    const auto* spec = tensor(module + ".weight");
    return spec != nullptr ? spec : tensor(module);
}

}  // namespace quantsparse::format
