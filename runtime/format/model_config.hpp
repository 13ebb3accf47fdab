// The configurations of the three networks of Wan2.1 text-to-video, in upstream's own field names.
#pragma once

#include <array>
#include <string>
#include <vector>

namespace quantsparse::format {

/// Wan DiT (upstream: wan/modules/model.py, WanModel).
struct WanDitConfig {
    int dim = 1536;
    int ffn_dim = 8960;
    int num_heads = 12;
    int num_layers = 30;
    int in_dim = 16;
    int out_dim = 16;
    int text_dim = 4096;
    int text_len = 512;
    int freq_dim = 256;
    std::array<int, 3> patch_size = {1, 2, 2};
    float eps = 1e-6f;
    bool qk_norm = true;
    bool cross_attn_norm = true;
    int head_dim() const { return dim / num_heads; }
};

/// UMT5 encoder (upstream: wan/modules/t5.py, T5Encoder with shared_pos=False).
struct Umt5Config {
    int vocab_size = 256384;
    int dim = 4096;
    int dim_attn = 4096;
    int dim_ffn = 10240;
    int num_heads = 64;
    int num_layers = 24;
    int num_buckets = 32;
    int max_distance = 128;
    int text_len = 512;
};

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

}  // namespace quantsparse::format
