// The final latents as .npy or .safetensors, to compare runs bit by bit.
#pragma once

#include <filesystem>
#include <span>
#include <vector>

#include "output_file.hpp"

namespace quantsparse::video {

class LatentsFile {
  public:
    /// Creates the temporary file at once. Throws Error(invalid_argument) for other extensions.
    explicit LatentsFile(const std::filesystem::path& path);
    void write(std::span<const float> values, const std::vector<int>& shape);

  private:
    OutputFile file_;
    bool numpy_;
};

}  // namespace quantsparse::video
