// What a row computes of self-attention, to be told beside its figures.
#pragma once

#include <cstdint>
#include <filesystem>

#include "quantsparse/pipeline.hpp"

namespace quantsparse::bench {

struct RowFacts {
    int layers = 0;
    int dense_layers = 0;  ///< whose attention is dense in every step
    double pairs = 1;  ///< share of dense attention's query-key pairs, over all steps and layers
};

/// Of one clip. Refreshes count as dense steps, reused steps as none.
RowFacts row_facts(const std::filesystem::path& model, const Generator& generator,
                   const GenerationParameters& parameters);

/// Values of a clip's latents. `resolved`: with a size.
std::uint64_t latent_values(const std::filesystem::path& model,
                            const GenerationParameters& resolved);

}  // namespace quantsparse::bench
