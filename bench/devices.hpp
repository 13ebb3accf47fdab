// quantsparse-bench devices: every Vulkan device with its limits.
#pragma once

#include <filesystem>

namespace quantsparse::bench {

/// Prints all devices and, when `json` is not empty, writes them there. Throws Error.
void run_devices(const std::filesystem::path& json);

}  // namespace quantsparse::bench
