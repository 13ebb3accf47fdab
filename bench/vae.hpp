// quantsparse-bench vae: what a model's autoencoder keeps of clips, both halves on the device.
#pragma once

#include <filesystem>
#include <vector>

#include "quantsparse/device.hpp"

namespace quantsparse::bench {

struct VaeOptions {
    std::filesystem::path model;
    std::vector<std::filesystem::path> clips;  ///< folders of png pictures of one size, 4n + 1 each
    DeviceOptions device;
    std::filesystem::path json;  ///< empty: not written
};

/// Prints each clip's PSNR of 8-bit pictures. Throws Error.
void run_vae(const VaeOptions& options);

}  // namespace quantsparse::bench
