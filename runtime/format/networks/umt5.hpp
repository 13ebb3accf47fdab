// The UMT5 text encoder: configuration, tensors and names. docs/networks/umt5.md.
#pragma once

#include "format/network.hpp"

namespace quantsparse::format {

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

Network describe_umt5(const Umt5Config& config);

NetworkKind umt5_kind();

}  // namespace quantsparse::format
