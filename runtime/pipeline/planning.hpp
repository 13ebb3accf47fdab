// What the stages of a generation take, and how they are fitted into the device.
#pragma once

#include <cstdint>
#include <vector>

#include "format/model_bundle.hpp"
#include "models/denoising_network.hpp"
#include "pipeline/decode.hpp"
#include "pipeline/recipes.hpp"
#include "pipeline/stage.hpp"
#include "program/residency.hpp"

namespace quantsparse::pipeline {

struct StagesPlan {
    MemoryPlan memory;
    std::vector<program::Residency> residency;  ///< of each expert
    VaeTile tile;                               ///< zeros where none fits
};

/// Fits all stages into `budget_bytes` (0: no limit) as far as streaming and tiling can.
/// `transformers`: an entry for each of the recipe's experts. Needs no weights.
StagesPlan plan_stages(const program::Limits& limits, const format::ModelBundle& bundle,
                       const std::vector<models::DenoisingOptions>& transformers,
                       std::uint64_t budget_bytes);

}  // namespace quantsparse::pipeline
