// Adapters put into a model: weights in floating point become sums, computed when they are read;
// beside quantised ones lie the low-rank matrices, for the run time to multiply by.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/adapter.hpp"
#include "format/model_file.hpp"

namespace quantsparse::format {

struct AppliedAdapter {
    std::shared_ptr<const AdapterFile> file;
    double strength = 1;
};

/// The network with the adapters in it: W' = W + sum of strength * factor * up * down, in fp32 from
/// the stored values (lora fact 55). A quantised linear gets the low-rank matrices beside it
/// instead (kLoraDown, kLoraUp): all adapters' one below the other, with strength and factor in the
/// second, and those that its file has; fp32 [rank, in] and [out, rank]. `expert`: which of the
/// model's transformers it is. `warn` gets a line about each file that holds more than the network
/// has a place for. Throws Error(bad_file) and Error(unsupported) as AdapterFile::changes_for()
/// does, and Error(unsupported) naming a difference that a quantised weight can't take.
Component apply_adapters(const Component& network, const std::vector<AppliedAdapter>& adapters,
                         ExpertPlace expert = {},
                         const std::function<void(const std::string&)>& warn = {});

}  // namespace quantsparse::format
