// The quantised model file: one safetensors file with all networks and tokenizers of a model.
//
// Tensors are named by the network's role (`transformer.`, `text_encoder.`, `vae.`) plus upstream's
// name; `tokenizer.model` (U8) is the tokenizer's file. `__metadata__` holds format, version,
// architecture, config (JSON) and quantization (JSON). docs/model-format.md describes all of it.
//
// A quantised linear y = x W^T + b of `in` = K and `out` = N features is stored as
//     <name>.codes          U32 [rows, packed_n(N)]   bit_packing.hpp; at 6 bits the rows of the
//                                                     2-bit plane follow those of the 4-bit plane
//     <name>.scale          F32 [N]
//     <name>.bias           F32 [N]   also of a linear without one: the mean error goes there
//     <name>.channel_scale  F32 [K]   c: the activation is divided by it
//     <name>.rotation_signs F32 [K]   +-1; absent when nothing is rotated, or by
//     <name>.rotation       F16 [K/b, b, b]  learned, b a multiple of 4
//     <name>.activation_clip F32 [1]  absent: 1
//     <name>.lora_down      F16 [r, K]  and <name>.lora_up F16 [N, r]: a product beside the codes,
//     of
//                                       the raw x; absent: none
// and run as
//     x' = hadamard((x / c) * signs)          (apply_hadamard, blocks of hadamard_block(K) columns)
//          or (x / c) times the block-diagonal matrix of `rotation`
//     y  = s_x * scale * (quantised(x') . codes) + b + lora_up (lora_down x),
//          s_x = activation_clip * max|x'| / qmax
// `rotation` and `activation_clip` stand once for all linears with a common input, with the first
// of them; files that have either are of version 2, those with products beside codes of version 3.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "format/model_bundle.hpp"

namespace quantsparse::format {

inline constexpr int kModelFileVersion = 3;

/// After a quantised linear's name: the matrices of a product beside its codes. Adapters that are
/// applied when a model is loaded add theirs, one below the other (adapter_merge.hpp).
inline constexpr const char* kLoraDown = ".lora_down";
inline constexpr const char* kLoraUp = ".lora_up";

/// Columns of one rotation block: the largest power of two up to 128 that divides k.
int hadamard_block(int k);

/// Rotates each row of k columns in place: multiplies by the signs (none: by 1), then each block of
/// B = hadamard_block(k) columns by the Sylvester Hadamard matrix over sqrt(B). Applied to the rows
/// of x / c and of W diag(c) alike, it leaves their product unchanged.
void apply_hadamard(std::span<float> rows, int k, std::span<const float> signs = {});

/// Shape of `<name>.codes` for a weight [n, k].
std::vector<std::int64_t> codes_shape(int n, int k, int bits);

/// Bytes of the block linears' weights: as stored (codes and scales, or the plain matrix) and in
/// bf16; products beside codes are part of them. Biases, equal in both, and the input side
/// (channel_scale, rotation_signs, rotation, activation_clip) are not counted.
struct LinearBytes {
    std::uint64_t stored = 0;
    std::uint64_t bf16 = 0;
    std::uint64_t input_vectors = 0;  ///< of the input side
};
LinearBytes linear_bytes(const Component& component);

/// `__metadata__` of a model file; `quantization_record` is the JSON object of the calibration and
/// must hold weight_bits and activation_bits. `version`: the first whose readers know all that the
/// file has.
std::map<std::string, std::string> model_file_metadata(const ModelBundle& bundle,
                                                       const std::string& quantization_record,
                                                       int version = 1);

/// Whether the file says that it is a model file. Throws Error(io|bad_file|unsupported) where it is
/// no file of weights.
bool is_model_file(const std::filesystem::path& path);

/// Opens a model file. Throws Error(unsupported) for another kind of file, a newer version or an
/// unknown architecture, Error(bad_file) for metadata that make no sense.
ModelBundle open_model_file(const std::filesystem::path& path);

/// Native size, fps, steps, guidance and shift, where the object has them (all optional).
void read_generation_defaults(const nlohmann::json& object, const std::string& where,
                              GenerationDefaults& defaults);

}  // namespace quantsparse::format
