// Which stream groups of a Program stay on the device, and which live in host memory and visit it.
//
// The weights of a layer, the keys and values of its cross-attention and its residuals are each
// used in one short stretch of a phase. Where not everything fits the device, some groups of a kind
// share two slots there: while one is used, the next is copied into the other (streamer.hpp).
// Results are the same to the bit, since the operations are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "program/program.hpp"

namespace quantsparse::program {

struct Residency {
    std::vector<bool> streamed;  ///< per stream group; empty: all resident

    bool streams(std::uint32_t group) const { return group < streamed.size() && streamed[group]; }
    bool any() const;
};

/// Streams as few groups as make the plan fit `budget_bytes` (0: all resident), those first that
/// cost the fewest transfers: weights used once a prompt, then residuals and what was made from the
/// prompt (each is read once a step), then weights (read by both guidance branches). Groups of a
/// kind are spread evenly over the layers, so that copies have time. When nothing fits, everything
/// that helps is streamed: the least the program can do with.
Residency choose_residency(const Program& program, std::uint64_t budget_bytes);

/// "all resident", or "24 of 40 weights and 80 of 80 residuals streamed from host memory".
std::string describe(const Program& program, const Residency& residency);

}  // namespace quantsparse::program
