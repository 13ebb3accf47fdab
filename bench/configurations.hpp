// The real models' configurations, by name or from a file, and how reports name them.
#pragma once

#include <string>

#include "attention/step_schedule.hpp"
#include "format/model_bundle.hpp"
#include "model.hpp"
#include "models/denoising_network.hpp"
#include "report.hpp"

namespace quantsparse::bench {

/// The networks' configurations; no weights are opened. Throws Error(io|bad_file).
format::ModelBundle configurations(const ModelOptions& options);

/// Of the model's first transformer.
const format::Component& transformer_of(const format::ModelBundle& bundle);

/// How that transformer is run with random weights: with what calibrated ones have beside them.
/// With refreshes every so many steps, five where nobody says: what single steps take is told as
/// the mean of such a period.
AttentionParameters periodic(AttentionParameters attention);

models::DenoisingOptions transformer_options(const ModelOptions& options,
                                             const format::ModelBundle& bundle,
                                             const models::LatentShape& latent, int branches,
                                             const attention::StepSchedule& schedule);

/// Latents of a grid of tokens.
models::LatentShape latent_of_tokens(const format::ModelBundle& bundle, int frames, int rows,
                                     int columns);

Json config_json(const ModelOptions& options, const format::ModelBundle& bundle);

/// "W4A8, rotated"
std::string bits_text(const ModelOptions& options);

}  // namespace quantsparse::bench
