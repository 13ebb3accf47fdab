// What a whole clip or a whole model costs, from what was measured of a part or from shapes alone.
#pragma once

#include <cstdint>

#include "format/network.hpp"

namespace quantsparse::bench {

/// Seconds of a step as its tokens grow: linear n + quadratic n^2, through two measurements.
struct StepCost {
    double linear = 0;
    double quadratic = 0;
    double at(double tokens) const { return (linear + quadratic * tokens) * tokens; }
};
/// Neither part is negative: noise may not make more tokens cheaper.
StepCost fit_step_cost(double tokens_1, double seconds_1, double tokens_2, double seconds_2);

/// Bytes of the transformer's file: block linears with `weight_bits` (16: two bytes a value) and
/// what belongs to them, everything else with two bytes a value.
std::uint64_t transformer_bytes(const format::Network& network, int weight_bits);

}  // namespace quantsparse::bench
