// What quantsparse::tune() found, in a file beside the pipeline cache. Anything wrong with it is as
// if it were not there.
#pragma once

#include <filesystem>
#include <optional>

#include "quantsparse/tuning.hpp"

namespace quantsparse::vulkan {

/// Whether the file could be written; makes its folder.
bool can_keep_tuning(const std::filesystem::path& file);
std::optional<Tuning> read_tuning(const std::filesystem::path& file);
/// False when it could not be written; then no part of it is left.
bool write_tuning(const std::filesystem::path& file, const Tuning& tuning);

}  // namespace quantsparse::vulkan
