// .pth files of the original release (text encoder and VAE) to safetensors.
#pragma once

#include <filesystem>
#include <vector>

namespace quantsparse::calib {

/// Copies all tensors of a .pth file under their own names and types; nothing is held in memory.
void convert_pth(const std::filesystem::path& source, const std::filesystem::path& destination,
                 bool show_progress);

/// Converts every .pth of an original Wan2.1 folder that has no .safetensors of the same name
/// beside it yet, and returns the files written.
std::vector<std::filesystem::path> convert_folder(const std::filesystem::path& folder,
                                                  bool show_progress);

}  // namespace quantsparse::calib
