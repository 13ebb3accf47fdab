// Small files that change a model (LoRA).
#pragma once

#include <filesystem>
#include <string>

namespace quantsparse {

/// The transformers of a model that an adapter changes: some have one for high noise, the first
/// steps, and one for low noise.
enum class AdapterTarget { both, high, low };

/// A LoRA file, and how strongly it changes the model.
struct Adapter {
    std::filesystem::path file;
    double strength = 1;  ///< -100..100; 1: as it was trained
    AdapterTarget target = AdapterTarget::both;
};

/// An adapter as command lines have it: FILE[:strength[:high|low]], read from the right end, since
/// names may have colons. What names a file is nothing but that.
Adapter adapter_from(const std::string& text);

}  // namespace quantsparse
