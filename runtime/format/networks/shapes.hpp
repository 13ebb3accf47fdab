// Configurations told from the shapes of a checkpoint's tensors.
#pragma once

#include <string>
#include <string_view>

#include "format/checkpoint.hpp"

namespace quantsparse::format {

/// Throws Error(bad_file) naming the tensor when it isn't there or has no such axis.
int dimension(const Checkpoint& checkpoint, const std::string& name, std::size_t axis);

/// One past the highest number of "<list><number>.…", at least 1. Where blocks are missing before
/// it, their tensors are, and the check of tensors names them.
int count_blocks(const Checkpoint& checkpoint, std::string_view list);

}  // namespace quantsparse::format
