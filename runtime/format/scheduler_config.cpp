#include "format/scheduler_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "format/json_fields.hpp"
#include "format/mapped_file.hpp"
#include "format/text.hpp"
#include "quantsparse/error.hpp"

namespace quantsparse::format {
namespace {

using nlohmann::json;

constexpr std::size_t kLargestConfig = 1 << 20;

/// A class and the sampler that computes as it does.
struct SchedulerClass {
    const char* name;
    Sampler sampler;
    const char* shift;  ///< its own key of the flow shift
};

constexpr std::array kClasses = {
    SchedulerClass{"UniPCMultistepScheduler", Sampler::unipc, "flow_shift"},
    SchedulerClass{"FlowUniPCMultistepScheduler", Sampler::unipc, "shift"},
    SchedulerClass{"DPMSolverMultistepScheduler", Sampler::dpmpp, "flow_shift"},
    SchedulerClass{"FlowDPMSolverMultistepScheduler", Sampler::dpmpp, "shift"},
    SchedulerClass{"FlowMatchEulerDiscreteScheduler", Sampler::euler, "shift"},
    SchedulerClass{"FlowMatchLCMScheduler", Sampler::lcm, "shift"},
};

enum class Otherwise { refuse, tell };

/// A key, the values with which it changes nothing here (null is always one), and what happens with
/// others.
struct Setting {
    const char* key;
    std::vector<json> harmless;
    Otherwise otherwise;
};

const std::vector<Setting>& settings() {
    static const std::vector<Setting> kSettings = {
        {"prediction_type", {"flow_prediction"}, Otherwise::refuse},
        {"use_flow_sigmas", {true}, Otherwise::refuse},
        {"num_train_timesteps", {1000}, Otherwise::refuse},
        {"use_dynamic_shifting", {false}, Otherwise::refuse},
        {"shift_terminal", {}, Otherwise::refuse},
        {"invert_sigmas", {false}, Otherwise::refuse},
        {"use_karras_sigmas", {false}, Otherwise::refuse},
        {"use_exponential_sigmas", {false}, Otherwise::refuse},
        {"use_beta_sigmas", {false}, Otherwise::refuse},
        {"use_lu_lambdas", {false}, Otherwise::refuse},
        {"stochastic_sampling", {false}, Otherwise::refuse},
        {"thresholding", {false}, Otherwise::refuse},
        {"predict_x0", {true}, Otherwise::tell},
        {"scale_factors", {}, Otherwise::refuse},
        {"sigma_min", {}, Otherwise::refuse},
        {"sigma_max", {}, Otherwise::refuse},
        {"final_sigmas_type", {"zero"}, Otherwise::tell},
        {"algorithm_type", {"dpmsolver++"}, Otherwise::tell},
        {"solver_order", {2}, Otherwise::tell},
        {"solver_type", {"bh2", "midpoint"}, Otherwise::tell},
        {"lower_order_final", {true}, Otherwise::tell},
        {"euler_at_final", {false}, Otherwise::tell},
        {"disable_corrector", {json::array()}, Otherwise::tell},
        {"solver_p", {}, Otherwise::tell},
        {"variance_type", {}, Otherwise::tell},
    };
    return kSettings;
}

/// Of betas, which a flow has none of; of dynamic shifting and thresholding, which are off; names.
constexpr std::array kUnused = {
    "_class_name",
    "_diffusers_version",
    "_name_or_path",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "steps_offset",
    "timestep_spacing",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "time_shift_type",
    "lambda_min_clipped",
    "upscale_mode",
    "shift",
    "flow_shift",
};

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
    throw Error(ErrorCode::unsupported, fmt::format("'{}' {}", where, what));
}

/// Python writes the infinities, which JSON has no word for; outside of strings they become null.
std::string without_infinities(std::string_view text) {
    std::string result;
    bool inside = false;
    while (!text.empty()) {
        std::size_t length = inside && text[0] == '\\' ? std::min<std::size_t>(2, text.size()) : 1;
        if (length == 1 && text[0] == '"') inside = !inside;
        bool replaced = false;
        for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
            if (!inside && !replaced && text.starts_with(word)) {
                replaced = true;
                length = word.size();
            }
        }
        result += replaced ? "null" : text.substr(0, length);
        text.remove_prefix(length);
    }
    return result;
}

/// Lists of steps say what a distilled model was trained for, but not which sampler goes with it.
void refuse_step_lists(const json& config, const std::string& where) {
    for (const auto& [key, value] : config.items()) {
        const bool steps = key.find("denoising_step") != std::string::npos || key == "timesteps" ||
                           key == "sigmas";
        if (steps && !value.is_null()) {
            refuse(where,
                   fmt::format("has {} {}: which sampler goes with such a list is not said there; "
                               "take it out of the file and give sampler and timesteps, or "
                               "few_steps, with the clip",
                               printable(key), value_text(value)));
        }
    }
}

const SchedulerClass* class_of(const json& config, const std::string& where) {
    const json* name = find_field(config, {"_class_name"});
    if (name == nullptr) return nullptr;
    std::vector<std::string> known;
    for (const SchedulerClass& candidate : kClasses) {
        if (*name == candidate.name) return &candidate;
        known.emplace_back(candidate.name);
    }
    refuse(where, fmt::format("is of the class {}, which this version does not compute; it has {}",
                              value_text(*name), list_names(known)));
}

/// Every key but those above, with what it is if it matters.
std::vector<std::string> check_settings(const json& config, const std::string& where) {
    std::vector<std::string> told;
    for (const auto& [key, value] : config.items()) {
        const auto& list = settings();
        const auto setting = std::find_if(list.begin(), list.end(), [&](const Setting& candidate) {
            return key == candidate.key;
        });
        const std::string text = fmt::format("{} {}", printable(key), value_text(value));
        if (value.is_null()) continue;
        if (setting == list.end()) {
            const bool unused = std::find(kUnused.begin(), kUnused.end(), key) != kUnused.end();
            if (!unused) told.push_back(text);
        } else if (std::find(setting->harmless.begin(), setting->harmless.end(), value) ==
                   setting->harmless.end()) {
            if (setting->otherwise == Otherwise::refuse) {
                refuse(where, fmt::format("has {}, which this version does not compute", text));
            }
            told.push_back(text);
        }
    }
    if (told.empty()) return {};
    return {fmt::format("'{}': not used: {}", where, list_names(told))};
}

/// The shift under the class's own key, else under the other one.
double flow_shift_of(const json& config, const SchedulerClass* known, const std::string& where,
                     double fallback, std::vector<std::string>& told) {
    const bool own_is_shift = known != nullptr && std::string_view(known->shift) == "shift";
    const char* own = own_is_shift ? "shift" : "flow_shift";
    const char* other = own_is_shift ? "flow_shift" : "shift";
    const auto number = [&](const char* key, double otherwise) {
        return number_or(config, key, otherwise, 1e-3, 1000, where);
    };
    if (find_field(config, {own, other}) == nullptr) {
        if (known == nullptr) return fallback;
        told.push_back(fmt::format("'{}': no {}: 1 is used, as {} does", where, own, known->name));
        return 1;
    }
    const double second = number(other, fallback);
    const double first = number(own, second);
    if (find_field(config, {other}) != nullptr && first != second) {
        told.push_back(
            fmt::format("'{}': {} {} is used, {} {} is not", where, own, first, other, second));
    }
    return first;
}

/// diffusers goes by the class that model_index.json names.
void compare_classes(const json& config, const json& index, const std::string& where,
                     std::vector<std::string>& told) {
    const json* own = find_field(config, {"_class_name"});
    const json* entry = find_field(index, {"scheduler"});
    if (own == nullptr || entry == nullptr || !entry->is_array() || entry->size() != 2) return;
    if (entry->at(1).is_string() && entry->at(1) != *own) {
        told.push_back(fmt::format("'{}': the class {} is used, not {} of model_index.json", where,
                                   value_text(*own), value_text(entry->at(1))));
    }
}

}  // namespace

std::vector<std::string> read_scheduler_config(const std::filesystem::path& path, const json& index,
                                               GenerationDefaults& defaults) {
    const std::string where = path.string();
    const json config =
        parse_json_object(without_infinities(read_small_text(path, kLargestConfig)), where);
    refuse_step_lists(config, where);
    const SchedulerClass* known = class_of(config, where);
    std::vector<std::string> told = check_settings(config, where);
    compare_classes(config, index, where, told);
    if (known != nullptr) defaults.sampler = known->sampler;
    defaults.flow_shift = flow_shift_of(config, known, where, defaults.flow_shift, told);
    return told;
}

}  // namespace quantsparse::format
