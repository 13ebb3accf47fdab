// What a file is that is not what its name says.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace quantsparse::format {

/// Says of the contents of a file which kind they are and what to do, to follow a file's name: "is
/// a git-lfs pointer, …"; empty where nothing is recognised. Of interest only where a reader has
/// found that the file is not its own: some binary formats have no mark.
std::string what_it_is(std::span<const std::byte> contents);

/// Whether all bytes are zero.
bool all_zero(std::span<const std::byte> bytes);

}  // namespace quantsparse::format
