// Whether a checkpoint holds what its network's description asks for.
#pragma once

#include <string>

#include "format/checkpoint.hpp"
#include "format/model_bundle.hpp"

namespace quantsparse::format {

/// Checks presence, shape and that the dtype is a floating-point one; groups of linears that
/// `quantization` keeps in fewer than 16 bits are expected packed (model_file.hpp). Throws one
/// Error(bad_file) that names all missing tensors, or the first that does not fit. `title`: the
/// network in messages.
void check_tensors(const Checkpoint& checkpoint, const std::string& title, const Network& network,
                   const Quantization& quantization = {});

}  // namespace quantsparse::format
