// Configurations told from the shapes of a checkpoint's tensors.
#pragma once

#include <string>

#include "format/checkpoint.hpp"

namespace quantsparse::format {

/// Throws Error(bad_file) naming the tensor when it isn't there or has no such axis.
int dimension(const Checkpoint& checkpoint, const std::string& name, std::size_t axis);

/// Blocks "<list><number>.<tensor>" are numbered without gaps: one past the last, at least 1.
int count_blocks(const Checkpoint& checkpoint, const char* list, const char* tensor);

}  // namespace quantsparse::format
