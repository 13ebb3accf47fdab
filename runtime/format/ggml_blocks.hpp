// The block types of ggml: runs of 32 or 256 values that share scales. docs/networks/gguf.md.
#pragma once

#include <cstddef>
#include <span>

#include "format/tensor.hpp"

namespace quantsparse::format {

bool is_block_type(DType dtype);

/// Widens whole blocks to the values ggml gives them, to the bit. `bytes`: exactly those of
/// `out.size()` values of the type, a multiple of its block; at any address.
void widen_blocks(DType dtype, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace quantsparse::format
