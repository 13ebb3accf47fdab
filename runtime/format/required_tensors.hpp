// Which tensors each network needs, by its configuration, under the original Wan2.1 names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/checkpoint.hpp"
#include "format/model_config.hpp"

namespace quantsparse::format {

struct RequiredTensor {
    std::string name;
    std::vector<std::int64_t> shape;
};

std::vector<RequiredTensor> required_tensors(const WanDitConfig& config);
std::vector<RequiredTensor> required_tensors(const Umt5Config& config);
/// The decoder and what stands before it; with `encoder` everything.
std::vector<RequiredTensor> required_tensors(const WanVaeConfig& config, bool encoder);

/// Checks presence, shape and that the dtype is a floating-point one. Throws one Error(bad_file)
/// that names all missing tensors, or the first with another shape. With `weight_bits` below 16 the
/// block linears are expected packed (model_file.hpp).
void check_tensors(const Checkpoint& checkpoint, const char* network,
                   const std::vector<RequiredTensor>& tensors);
void check_quantized_tensors(const Checkpoint& checkpoint, const WanDitConfig& config,
                             int weight_bits);

/// Configurations from tensor shapes, for files that come without one. What shapes do not tell
/// takes the released models' values (head width 128 in the DiT, dim_mult 1, 2, 4, 4 in the VAE).
Umt5Config infer_umt5_config(const Checkpoint& checkpoint);
WanVaeConfig infer_wan_vae_config(const Checkpoint& checkpoint);

}  // namespace quantsparse::format
