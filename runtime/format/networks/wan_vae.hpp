// The Wan video autoencoder: configuration, tensors and names. docs/networks/wan.md.
#pragma once

#include <vector>

#include "format/network.hpp"

namespace quantsparse::format {

/// Wan VAE (upstream: wan/modules/vae.py, WanVAE_).
struct WanVaeConfig {
    int dim = 96;
    int z_dim = 16;
    std::vector<int> dim_mult = {1, 2, 4, 4};
    int num_res_blocks = 2;
    std::vector<bool> temporal_downsample = {false, true, true};
    std::vector<float> latents_mean;  ///< z_dim values
    std::vector<float> latents_std;
};

/// The released autoencoder's statistics per channel of the latents (wan/modules/vae.py), for files
/// without a configuration.
void set_released_latent_statistics(WanVaeConfig& config);

/// `encoder`: whether the tensors of encoding are among those needed.
Network describe_wan_vae(const WanVaeConfig& config, bool encoder);

NetworkKind wan_vae_kind();

}  // namespace quantsparse::format
