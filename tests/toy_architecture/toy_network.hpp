// A made-up architecture: joint attention over text and grid, with names of its own and q and k
// normalised per head. It exists to show that an architecture is a description (this file), a
// Program (toy_program.cpp) and a block for the calibrator (toy_calibration.cpp), and that nothing
// outside this folder knows it.
#pragma once

#include "format/architecture.hpp"
#include "format/network.hpp"

namespace quantsparse::toy {

struct ToyConfig {
    int width = 64;
    int hidden = 160;
    int heads = 4;
    int layers = 2;
    int channels = 16;
    int patch = 2;  ///< latent cells of a token along rows and columns
    int text_width = 32;
    int text_tokens = 64;  ///< stand in front of the grid; a multiple of 64
    int frequencies = 16;  ///< of the timestep's sinusoid
    int head_dim() const { return width / heads; }
};

/// Vectors of a block's modulation, in order.
enum ModulationVector { kShift1, kScale1, kGate1, kShift2, kScale2, kGate2, kVectors };

format::Network describe_toy(const ToyConfig& config);
format::NetworkKind toy_kind();
/// "toy-joint": the transformer above with UMT5 and Wan's autoencoder.
format::Architecture toy_architecture();

/// Makes the loader and the recipes know it; once per process.
void register_toy_network();

}  // namespace quantsparse::toy
