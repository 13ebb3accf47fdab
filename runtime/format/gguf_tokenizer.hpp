// The tokenizer that a text encoder's GGUF file carries in its metadata.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "format/checkpoint.hpp"
#include "format/gguf.hpp"

namespace quantsparse::format {

/// The file's `tokenizer.ggml.*` entries as the bytes of a spiece.model, which Tokenizer takes.
/// Throws Error(bad_file) naming the entry that is missing or makes no sense, Error(unsupported)
/// for another kind of tokenizer, both saying what to give instead.
std::vector<std::byte> gguf_tokenizer(const GgufFile& file);

/// Of the GGUF file that a checkpoint was read from; nothing for other files.
std::optional<std::vector<std::byte>> gguf_tokenizer(const Checkpoint& checkpoint);

}  // namespace quantsparse::format
