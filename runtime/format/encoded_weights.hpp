// Checkpoints of others whose linears are kept in 8 or 4 bits with scales beside them: scaled F8,
// INT8 with and without ConvRot, W4A8 (quantised-checkpoints facts 60 to 67).
#pragma once

#include "format/checkpoint.hpp"
#include "format/model_bundle.hpp"

namespace quantsparse::format {

/// Puts in the place of every weight that has its scale beside it one that reads as fp32 in the
/// original basis, and takes the neighbours that belong to it out of the checkpoint. Integer
/// weights also appear as the codes of a model file (`<name>.codes`, `.scale`, `.rotation_signs`;
/// model_file.hpp), so that the integer products take them as they are: Checkpoint::native().
/// Nothing is computed before it is read. Throws Error(unsupported) naming a format that is not
/// read, Error(bad_file) naming a tensor that does not fit its weight.
void decode_weights(Checkpoint& checkpoint);

/// How a network's linears are to be run: groups whose linears are all native integers of the same
/// rotation in 8 bits, the others in floating point. Nothing is quantised where there are none.
Quantization native_quantization(const Network& network, const Checkpoint& checkpoint);

}  // namespace quantsparse::format
