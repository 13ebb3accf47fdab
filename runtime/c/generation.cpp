#include "c/generation.hpp"

#include <fmt/format.h>

#include <array>

#include "c/structs.hpp"

namespace quantsparse::c {
namespace {

constexpr std::array kSamplers = {Sampler::unipc, Sampler::dpmpp, Sampler::euler, Sampler::lcm,
                                  Sampler::ddim,  Sampler::dmd,   Sampler::rcm};

/// Entry `value` of a table that is in the order of the C enum.
template <typename Enum, typename Value, std::size_t kCount>
Value chosen(Enum value, const std::array<Value, kCount>& table, const char* field) {
    const auto index = static_cast<std::size_t>(value);
    if (index >= kCount) {
        throw Error(ErrorCode::invalid_argument,
                    fmt::format("{} {} is none of the header's", field, index), field);
    }
    return table[index];
}

/// Zero: the model's own.
template <typename Value>
std::optional<Value> unless_zero(Value value) {
    return value == 0 ? std::nullopt : std::optional(value);
}

std::vector<Adapter> adapters_of(const qs_generation& g) {
    std::vector<Adapter> adapters;
    if (g.lora_count > 0 && !g.loras) {
        throw Error(ErrorCode::invalid_argument, "loras is NULL, but lora_count is not 0", "loras");
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(g.loras);
    for (std::size_t i = 0; i < g.lora_count; ++i) {
        const auto* element = reinterpret_cast<const qs_lora*>(bytes + i * g.loras->size);
        const qs_lora lora = given(element, "loras");
        if (lora.size != g.loras->size || !lora.file) {
            throw Error(ErrorCode::invalid_argument,
                        fmt::format("LoRA {} has no file, or another size than the first: call "
                                    "qs_lora_init() for each",
                                    i),
                        "loras");
        }
        constexpr std::array kTargets = {AdapterTarget::both, AdapterTarget::high,
                                         AdapterTarget::low};
        adapters.push_back({lora.file, lora.strength, chosen(lora.target, kTargets, "target")});
    }
    return adapters;
}

AttentionParameters attention_of(const qs_generation& g) {
    AttentionParameters attention;
    attention.kind =
        chosen(g.attention,
               std::array{AttentionParameters{}.kind, std::optional(AttentionKind::dense),
                          std::optional(AttentionKind::sparse)},
               "attention");
    attention.products = chosen(
        g.attention_arithmetic,
        std::array{AttentionProducts::full, AttentionProducts::int8_qk, AttentionProducts::int8},
        "attention_arithmetic");
    if (g.density != 0) attention.density = g.density;
    if (g.dense_layers != 0) attention.dense_layers = g.dense_layers == -1 ? 0 : g.dense_layers;
    attention.refreshes = unless_zero(g.refreshes);
    attention.residual = chosen(g.residual,
                                std::array{AttentionParameters{}.residual, ResidualStorage::half,
                                           ResidualStorage::int8, ResidualStorage::int4},
                                "residual");
    return attention;
}

}  // namespace

GenerationParameters parameters_of(const qs_generation* generation) {
    const qs_generation g = given(generation, "generation");
    GenerationParameters p;
    if (g.prompt) p.conditioning.prompt = g.prompt;
    if (g.negative_prompt) p.conditioning.negative_prompt = g.negative_prompt;
    p.conditioning.adapters = adapters_of(g);
    p.width = unless_zero(g.width);
    p.height = unless_zero(g.height);
    p.frames = unless_zero(g.frames);
    p.seed = g.seed;
    p.rng = chosen(g.rng, std::array{Rng::philox, Rng::torch}, "rng");
    p.steps = unless_zero(g.steps);
    if (g.sampler != QS_SAMPLER_DEFAULT) {
        p.sampler = chosen(static_cast<qs_sampler>(g.sampler - 1), kSamplers, "sampler");
    }
    p.guidance_scale = unless_zero(g.guidance_scale);
    p.flow_shift = unless_zero(g.flow_shift);
    if (g.timestep_count > 0 && !g.timesteps) {
        throw Error(ErrorCode::invalid_argument, "timesteps is NULL, but timestep_count is not 0",
                    "timesteps");
    }
    if (g.timestep_count > 0) p.timesteps.assign(g.timesteps, g.timesteps + g.timestep_count);
    if (g.few_steps != QS_FEW_STEPS_NONE) {
        p.few_steps = chosen(
            static_cast<qs_few_steps>(g.few_steps - 1),
            std::array{FewSteps::lightx2v_4, FewSteps::fastwan_3, FewSteps::turbo_4}, "few_steps");
    }
    p.step_cache = g.step_cache;
    p.attention = attention_of(g);
    return p;
}

qs_sampler sampler_of(Sampler sampler) {
    for (std::size_t i = 0; i < kSamplers.size(); ++i) {
        if (kSamplers[i] == sampler) return static_cast<qs_sampler>(i + 1);
    }
    return QS_SAMPLER_DEFAULT;
}

}  // namespace quantsparse::c

void qs_lora_init_sized(qs_lora* lora, size_t size) {
    qs_lora values{};
    values.strength = 1;
    quantsparse::c::initialise(lora, size, values);
}

void qs_generation_init_sized(qs_generation* generation, size_t size) {
    quantsparse::c::initialise(generation, size);
}
