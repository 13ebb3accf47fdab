// Running the unquantised model over a few generated clips and keeping what quantising needs to
// know.
#pragma once

#include <array>

#include "calib/activations.hpp"
#include "calib/options.hpp"
#include "calib/samples.hpp"
#include "format/model_bundle.hpp"

namespace quantsparse::calib {

/// Size of the calibration clips in pixels and frames.
struct ClipSize {
    int width = 0;
    int height = 0;
    int frames = 0;
    std::array<int, 4> latent{};  ///< [channels, frames, rows, columns]
    std::int64_t tokens = 0;
};

/// The size asked for, or one of at most about 1000 tokens with the native shape. Throws
/// Error(invalid_argument) saying the nearest size where the one asked for does not fit the
/// networks.
ClipSize choose_clip_size(const format::ModelBundle& model, const CalibrationOptions& options);

/// The prompts in use: the options' own or the built-in ones, repeated or cut to the clip count.
std::vector<std::string> choose_prompts(const CalibrationOptions& options);

/// The guidance scale of the clips: the options' own or the model's default.
double clip_guidance(const format::ModelBundle& model, const CalibrationOptions& options);

/// The scale by which predictions with the prompt and without are combined; 1 for a model that
/// makes one prediction.
double combining_guidance(const format::ModelBundle& model, const CalibrationOptions& options);

/// The transformer that is calibrated.
const format::Component& transformer_of(const format::ModelBundle& model);

struct Collected {
    CollectedActivations activations;
    SampleSet samples;  ///< before block 0
};

/// Generates the clips with guidance, UniPC and the model's own shift, observing every forward.
Collected collect(const format::ModelBundle& model, const CalibrationOptions& options,
                  bool show_progress);

}  // namespace quantsparse::calib
