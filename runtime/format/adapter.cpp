#include "format/adapter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "format/json_fields.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;
using Part = AdapterPart;

constexpr std::string_view kSecondTransformer = "transformer_2.";

/// Of the modules of one transformer, what PEFT's own record in the header says (lora fact 56).
struct PeftSettings {
    std::optional<double> alpha;
    std::map<std::string, double> alpha_pattern;  ///< by the end of a module's name
    bool rank_stabilised = false;                 ///< alpha / sqrt(rank)

    std::optional<double> alpha_of(std::string_view module) const {
        for (const auto& [end, value] : alpha_pattern) {
            const bool whole = module == end;
            if (whole || (module.ends_with(end) && module[module.size() - end.size() - 1] == '.')) {
                return value;
            }
        }
        return alpha;
    }
};

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
    throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", path.string(), what), "adapters");
}

[[noreturn]] void refuse_tensor(const TensorSource& source, const std::string& tensor,
                                const std::string& what) {
    throw Error(
        ErrorCode::bad_file,
        fmt::format("tensor '{}' of '{}' {}", printable(tensor), source.path().string(), what),
        "adapters");
}

double number_of(const json& value, const char* key, const std::string& where) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
        reject(where, fmt::format("{} in lora_adapter_metadata is no number", printable(key)));
    }
    return value.get<double>();
}

std::map<std::string, double> patterns_of(const json& value, const std::string& where) {
    std::map<std::string, double> patterns;
    if (!value.is_object()) {
        reject(where, "alpha_pattern in lora_adapter_metadata is not a JSON object");
    }
    for (const auto& [name, number] : value.items()) {
        if (name.empty() || name.find_first_of("*+?[](){}|^$\\") != std::string::npos) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("'{}': the alpha_pattern '{}' is a regular expression; only "
                                    "names of modules are read",
                                    where, printable(name)),
                        "adapters");
        }
        patterns.emplace(name, number_of(number, name.c_str(), where));
    }
    return patterns;
}

/// `prefix`: of the module's names, "transformer." or "transformer_2.".
PeftSettings peft_settings(const TensorSource& source, std::string_view prefix) {
    PeftSettings settings;
    const auto text = source.metadata().find("lora_adapter_metadata");
    if (text == source.metadata().end()) {
        return settings;
    }
    const std::string where = source.path().string();
    const json object = parse_json_object(text->second, where);
    const auto field = [&](const char* key) {
        const std::string full = std::string(prefix) + key;
        return find_field(object, {full.c_str(), key});
    };
    const auto is_true = [&](const char* key) {
        const json* value = field(key);
        return value != nullptr && *value == true;
    };
    if (const json* type = field("peft_type"); type != nullptr && *type != "LORA") {
        refuse(source.path(), fmt::format("is an adapter of the kind {}: only LoRA is read",
                                          printable(type->dump())));
    }
    if (is_true("use_dora")) {
        refuse(source.path(), "is a DoRA file (use_dora): only LoRA is read");
    }
    settings.rank_stabilised = is_true("use_rslora");
    if (const json* alpha = field("lora_alpha")) {
        settings.alpha = number_of(*alpha, "lora_alpha", where);
    }
    if (const json* patterns = field("alpha_pattern")) {
        settings.alpha_pattern = patterns_of(*patterns, where);
    }
    return settings;
}

/// What a file looks like it is for, by names that only others have.
std::string_view likely_model(const TensorSource& source) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kSigns = {{
        {"double_blocks", "HunyuanVideo or FLUX"},
        {"single_transformer_blocks", "FLUX or HunyuanVideo in diffusers"},
        {"joint_blocks", "Stable Diffusion 3"},
        {"down_blocks", "Stable Diffusion"},
        {"input_blocks", "Stable Diffusion"},
        {"transformer_blocks", "another transformer, such as LTX-Video or CogVideoX"},
        {"lora_te", "a text encoder"},
        {"text_encoder", "a text encoder"},
        {"self_attn", "a Wan model of another kind"},
    }};
    for (const auto& [piece, model] : kSigns) {
        for (const auto& [name, view] : source.tensors()) {
            if (name.find(piece) != std::string::npos) {
                return model;
            }
        }
    }
    return {};
}

std::int64_t product(const std::vector<std::int64_t>& shape, std::size_t from) {
    std::int64_t count = 1;
    for (std::size_t i = from; i < shape.size(); ++i) {
        count *= shape[i];  // of tensors that are in memory: no overflow
    }
    return count;
}

/// Puts the parts of one module where they belong.
class ModuleFit {
  public:
    ModuleFit(const TensorSource& source, const ModuleNames& names, const PeftSettings& settings,
              std::string module, std::string_view spelled, AdapterChanges& changes)
        : source_(source),
          names_(names),
          settings_(settings),
          module_(std::move(module)),
          spelled_(spelled),
          changes_(changes) {}

    void add(const std::map<Part, const TensorView*>& parts) {
        const auto part = [&](Part which) {
            const auto found = parts.find(which);
            return found == parts.end() ? nullptr : found->second;
        };
        const auto* down = part(Part::down);
        const auto* alpha = part(Part::alpha);
        if (down != nullptr) {
            add_low_rank(*down, *part(Part::up), alpha);
            if (const auto* bias = part(Part::up_bias)) {
                add_difference(module_ + ".bias", *bias, factor_);
            }
        } else if (alpha != nullptr) {
            changes_.unused.push_back(alpha->name);
        }
        if (const auto* values = part(Part::weight_difference)) {
            const auto* weight = names_.weight(module_);
            add_difference(weight != nullptr ? weight->name : std::string(), *values, 1);
        }
        if (const auto* values = part(Part::bias_difference)) {
            add_difference(module_ + ".bias", *values, 1);
        }
        if (const auto* values = part(Part::modulation_difference)) {
            add_difference(module_ + ".modulation", *values, 1);
        }
    }

  private:
    void require_floating(const TensorView& view) const {
        if (!is_floating(view.dtype)) {
            refuse_tensor(source_, view.name,
                          fmt::format("has dtype {} where a floating-point type is needed",
                                      name_of(view.dtype)));
        }
    }

    double alpha_value(const TensorView& view) const {
        require_floating(view);
        if (view.element_count() != 1) {
            refuse_tensor(
                source_, view.name,
                fmt::format("has the shape {} where one number is needed", shape_text(view.shape)));
        }
        const float value = to_float(view).front();
        if (!std::isfinite(value)) {
            refuse_tensor(source_, view.name, "is no finite number; the file is damaged");
        }
        return static_cast<double>(value);
    }

    void add_low_rank(const TensorView& down, const TensorView& up, const TensorView* alpha) {
        require_floating(down);
        require_floating(up);
        const auto* weight = names_.weight(module_);
        if (weight == nullptr || weight->shape.size() < 2) {
            changes_.unused.insert(changes_.unused.end(), {down.name, up.name});
            return;
        }
        const std::int64_t rank = down.shape.empty() ? 0 : down.shape.front();
        if (down.shape.size() < 2 || rank < 1 ||
            product(down.shape, 1) != product(weight->shape, 1)) {
            refuse_shape(down, *weight);
        }
        if (up.shape.size() < 2 || up.shape[0] != weight->shape[0] ||
            product(up.shape, 1) != rank) {
            refuse_shape(up, *weight);
        }
        std::optional<double> value;
        if (alpha != nullptr) {
            value = alpha_value(*alpha);
        } else {
            value = settings_.alpha_of(spelled_);
        }
        const double r = static_cast<double>(rank);
        factor_ = value ? *value / (settings_.rank_stabilised ? std::sqrt(r) : r) : 1;
        changes_.tensors[weight->name].low_rank.push_back({down, up, factor_});
    }

    void add_difference(const std::string& name, const TensorView& values, double factor) {
        require_floating(values);
        const auto* tensor = names_.tensor(name);
        if (tensor == nullptr) {
            changes_.unused.push_back(values.name);
            return;
        }
        // Dimensions of 1 come and go: [1, 6, dim] and [6, dim] are the same modulation.
        const auto squeezed = [](std::vector<std::int64_t> shape) {
            std::erase(shape, 1);
            return shape;
        };
        if (squeezed(values.shape) != squeezed(tensor->shape)) {
            refuse_shape(values, *tensor);
        }
        changes_.tensors[name].differences.push_back({values, factor});
    }

    [[noreturn]] void refuse_shape(const TensorView& view, const TensorSpec& wanted) const {
        refuse_tensor(source_, view.name,
                      fmt::format("has the shape {}, which does not fit '{}' {}; the file is for a "
                                  "model of another size",
                                  shape_text(view.shape), wanted.name, shape_text(wanted.shape)));
    }

    const TensorSource& source_;
    const ModuleNames& names_;
    const PeftSettings& settings_;
    const std::string module_;
    const std::string_view spelled_;  ///< without its prefix
    AdapterChanges& changes_;
    double factor_ = 1;
};

}  // namespace

AdapterFile::AdapterFile(const std::filesystem::path& path) : source_(open_tensor_source(path)) {
    refuse_other_kinds();
    bool any = false;
    for (const auto& [name, view] : source_->tensors()) {
        const auto key = parse_adapter_key(name);
        if (!key) {
            strange_.push_back(name);
            continue;
        }
        any = any || key->part != Part::alpha;
        if (!modules_[key->module].emplace(key->part, &view).second) {
            refuse_tensor(*source_, name, "is there in two spellings; keep one");
        }
    }
    if (!any) {
        refuse(path, source_->tensors().empty()
                         ? "holds no tensors"
                         : fmt::format("is no LoRA file: its tensors ({}) are those of a whole "
                                       "model; open it as the model",
                                       list_names(strange_, 3)));
    }
    for (const auto& [name, parts] : modules_) {
        const auto down = parts.find(Part::down), up = parts.find(Part::up);
        if ((down == parts.end()) != (up == parts.end())) {
            refuse_tensor(*source_, (down == parts.end() ? up : down)->second->name,
                          fmt::format("lacks the {} matrix of its pair; the file is incomplete",
                                      down == parts.end() ? "down" : "up"));
        }
        if (down == parts.end() && parts.contains(Part::up_bias)) {
            refuse_tensor(*source_, parts.at(Part::up_bias)->name,
                          "lacks the matrices it belongs to; the file is incomplete");
        }
    }
}

void AdapterFile::refuse_other_kinds() const {
    for (const auto& [name, view] : source_->tensors()) {
        if (const auto kind = other_adapter_kind(name)) {
            refuse(source_->path(),
                   fmt::format("holds {} ('{}'): only LoRA is read", *kind, printable(name)));
        }
    }
}

AdapterChanges AdapterFile::changes_for(const Network& network, ExpertPlace expert) const {
    const ModuleNames names(network);
    AdapterChanges changes;
    changes.unused = strange_;
    const bool for_two = std::any_of(modules_.begin(), modules_.end(), [](const auto& entry) {
        return entry.first.starts_with(kSecondTransformer);
    });
    bool for_other_expert = false;
    std::map<std::string_view, PeftSettings> settings;
    std::map<std::string, std::string> found;  // canonical module: the file's name for it
    for (const auto& [spelled, parts] : modules_) {
        const bool second = spelled.starts_with(kSecondTransformer);
        if (for_two && expert.count > 1 && second != (expert.index > 0)) {
            for_other_expert = true;
            continue;
        }
        bool fits = false;
        for (const auto& spelling : spellings_of(spelled)) {
            const auto module =
                for_two && second && expert.count == 1 ? std::nullopt : names.find(spelling);
            if (!module) {
                continue;
            }
            const auto [place, inserted] = found.emplace(*module, spelled);
            if (!inserted) {
                refuse(path(), fmt::format("has '{}' twice, as '{}' and as '{}'; keep one", *module,
                                           printable(place->second), printable(spelled)));
            }
            auto known = settings.find(spelling.prefix);
            if (known == settings.end()) {
                known = settings.emplace(spelling.prefix, peft_settings(*source_, spelling.prefix))
                            .first;
            }
            ModuleFit(*source_, names, known->second, *module, spelling.rest, changes).add(parts);
            fits = true;
            break;
        }
        if (!fits) {
            for (const auto& [part, view] : parts) {
                changes.unused.push_back(view->name);
            }
        }
    }
    if (changes.tensors.empty() && !for_other_expert) {
        const auto model = likely_model(*source_);
        refuse(path(),
               fmt::format("changes nothing of this model ({}): its tensors ({}) look like those "
                           "for {}",
                           network.kind, list_names(changes.unused, 3),
                           model.empty() ? "another model" : model));
    }
    std::sort(changes.unused.begin(), changes.unused.end());
    return changes;
}

}  // namespace quantsparse::format
