#include "pipeline/sampling_parameters.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::pipeline {
namespace {

constexpr double kTrainTimesteps = 1000;
constexpr int kRcmSteps = 4;

[[noreturn]] void fail(const char* field, const std::string& message) {
    throw Error(ErrorCode::invalid_argument, message, field);
}

/// What few-step fact 79, 81 or 82 says.
struct Preset {
    FewSteps name;
    Sampler sampler;
    std::vector<double> timesteps;  ///< empty: the sampler has its own
    int steps;
    std::optional<double> flow_shift;
};

const Preset& preset_of(FewSteps name) {
    static const std::vector<Preset> kPresets = {
        {FewSteps::lightx2v_4, Sampler::euler, {1000, 750, 500, 250}, 4, 5},
        {FewSteps::fastwan_3, Sampler::dmd, {1000, 757, 522}, 3, 8},
        {FewSteps::turbo_4, Sampler::rcm, {}, kRcmSteps, std::nullopt},
    };
    for (const Preset& preset : kPresets) {
        if (preset.name == name) return preset;
    }
    fail("few_steps", fmt::format("unknown preset: use {}", list_of_words<FewSteps>()));
}

std::string text_of(double value) {
    return fmt::format("{:g}", value);
}
std::string text_of(int value) {
    return fmt::format("{}", value);
}
std::string text_of(Sampler value) {
    return word_of(value);
}
std::string text_of(const std::vector<double>& values) {
    return fmt::format("{:g}", fmt::join(values, ", "));
}

void apply_preset(GenerationParameters& p) {
    const Preset& preset = preset_of(*p.few_steps);
    const auto contradicts = [&](const char* field, const std::string& asked,
                                 const std::string& own) {
        fail(field, fmt::format("{} contradicts few_steps {}, which {}: leave one of the two out",
                                asked, word_of(*p.few_steps), own));
    };
    const auto set = [&](const char* field, auto& asked, const auto& own) {
        if (asked && *asked != own) contradicts(field, text_of(*asked), "has " + text_of(own));
        asked = own;
    };
    set("sampler", p.sampler, preset.sampler);
    set("steps", p.steps, preset.steps);
    if (preset.flow_shift) {
        set("flow_shift", p.flow_shift, *preset.flow_shift);
    } else if (p.flow_shift) {
        contradicts("flow_shift", text_of(*p.flow_shift), "has none");
    }
    const bool list = !preset.timesteps.empty();
    const std::string own = list ? "has timesteps " + text_of(preset.timesteps) : "has its own";
    if (!p.sigmas.empty()) contradicts("sigmas", text_of(p.sigmas), own);
    if (!p.timesteps.empty() && p.timesteps != preset.timesteps) {
        contradicts("timesteps", text_of(p.timesteps), own);
    }
    p.timesteps = preset.timesteps;
    p.guidance_scale = p.guidance_scale.value_or(1.0);
}

/// Falling, above 0 and at most `highest`.
void check_falling(const char* field, const std::vector<double>& values, double highest) {
    double before = highest;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const bool falls = i == 0 ? values[i] <= before : values[i] < before;
        if (!(values[i] > 0 && falls)) {
            fail(field, fmt::format("{:g} can't stand in {}: a list falls from at most {:g} and "
                                    "stays above 0; the 0 that the last step leads to is no part "
                                    "of it",
                                    values[i], text_of(values), highest));
        }
        before = values[i];
    }
}

/// Lists of levels: the sampler and the number of steps follow from them.
void apply_lists(GenerationParameters& p, Sampler own) {
    if (!p.sigmas.empty() && !p.timesteps.empty()) {
        fail("sigmas", "noise levels are given as timesteps, too: leave one of the two lists out");
    }
    check_falling("sigmas", p.sigmas, 1);
    check_falling("timesteps", p.timesteps, kTrainTimesteps);
    const bool sigmas = !p.sigmas.empty();
    if (!sigmas && p.timesteps.empty()) return;
    const char* field = sigmas ? "sigmas" : "timesteps";
    const std::vector<double>& list = sigmas ? p.sigmas : p.timesteps;
    const int count = static_cast<int>(list.size());
    if (p.steps && *p.steps != count) {
        fail(field, fmt::format("{} are {} steps, but steps is {}: leave steps out", text_of(list),
                                count, *p.steps));
    }
    p.steps = count;
    if (!p.sampler) p.sampler = own == Sampler::lcm ? Sampler::lcm : Sampler::euler;
    const bool takes = p.sampler == Sampler::euler || p.sampler == Sampler::lcm ||
                       (p.sampler == Sampler::dmd && !sigmas);
    if (!takes) {
        fail(field,
             fmt::format("the sampler {} can't take a list of {}: use {}", word_of(*p.sampler),
                         field, sigmas ? "euler or lcm" : "euler, lcm or dmd"));
    }
}

}  // namespace

GenerationParameters with_sampling_set(GenerationParameters p, Sampler own) {
    if (p.few_steps) apply_preset(p);
    apply_lists(p, own);
    p.sampler = p.sampler.value_or(own);
    if (p.sampler == Sampler::dmd && p.timesteps.empty()) {
        fail("sampler", "dmd needs timesteps, for example 1000, 757, 522");
    }
    if (p.sampler == Sampler::rcm) {
        p.steps = p.steps.value_or(kRcmSteps);
        if (p.flow_shift) {
            fail("flow_shift",
                 "the sampler rcm has times of its own, which nothing shifts: leave "
                 "the shift out");
        }
    }
    if (p.sampler == Sampler::dmd || p.sampler == Sampler::rcm) {
        sampling::make_scheduler(sampler_options(p));  // refuses fractions and too many steps
    }
    return p;
}

sampling::SamplerOptions sampler_options(const GenerationParameters& p) {
    sampling::SamplerOptions options;
    options.kind = *p.sampler;
    options.steps = p.steps.value_or(options.steps);
    options.seed = p.seed;
    const double shift = p.flow_shift.value_or(1.0);
    if (options.kind == Sampler::rcm) {
        options.noise = sampling::RcmTimes{};
    } else if (options.kind == Sampler::dmd) {
        options.noise = sampling::TableTimesteps{p.timesteps, shift};
    } else if (!p.sigmas.empty() || !p.timesteps.empty()) {
        std::vector<double> sigmas = p.sigmas;
        for (const double t : p.timesteps) sigmas.push_back(t / kTrainTimesteps);
        options.noise = sampling::GivenSigmas{sigmas, shift};
    } else {
        options.noise = sampling::FlowShift{shift};
    }
    return options;
}

}  // namespace quantsparse::pipeline
