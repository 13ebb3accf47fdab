// Reads the pickle inside a .pth file: a dictionary from names to tensors and nothing else.
//
// LibTorch's own unpickler loses dictionaries that carry attributes, as every state_dict() does
// (`_metadata`), and loads all tensors at once; and a general one would run code from the file.
// This one knows the opcodes a state dict needs, refuses all others, and returns where the data
// lie.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/safetensors.hpp"

namespace quantsparse::calib {

struct PthTensor {
    std::string name;
    format::DType dtype = format::DType::f32;
    std::string storage;  ///< record "data/<storage>" of the archive
    std::int64_t storage_elements = 0;
    std::int64_t offset = 0;  ///< in elements
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;  ///< in elements
};

/// `pickle`: the record data.pkl. Entries that are no tensors are left out. Throws Error(bad_file)
/// or Error(unsupported) naming `where`.
std::vector<PthTensor> read_state_dict(std::span<const std::byte> pickle, const std::string& where);

}  // namespace quantsparse::calib
