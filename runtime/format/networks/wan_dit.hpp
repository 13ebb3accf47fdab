// The Wan diffusion transformer: configuration, tensors, linears and names. docs/networks/wan.md.
#pragma once

#include <array>

#include "format/network.hpp"

namespace quantsparse::format {

/// Of a block that was trained with sparse-linear attention: [head_dim, head_dim] with bias (sla
/// fact 91).
inline constexpr const char* kLinearProjection = "self_attn.attn_op.local_attn.proj_l";

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
    bool sparse_linear = false;  ///< blocks hold proj_l (sla fact 91)
    int head_dim() const { return dim / num_heads; }
};

/// Of any configuration, checked or not: for shapes that no file has.
Network describe_wan_dit(const WanDitConfig& config);

NetworkKind wan_dit_kind();

}  // namespace quantsparse::format
