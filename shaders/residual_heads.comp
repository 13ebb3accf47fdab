// The book-keeping of a refresh, before it (kAfter 0) and after it (kAfter 1).
//
//   state     uint32 [4, heads]: usable references, all references, type, flips; then 2 counters of the
//             layer: refreshes whose difference was refused, refreshes that were not finite
//   types     uint32 [heads]: 0 spatial, 1 temporal: decided for the steps to come (kHasTypes)
//   partials  fp32 [groups, 4]: residual_difference.comp
//
// Before: a head whose type changed starts anew, its old residuals belong to another mask.
// After: every head has one more reference. When the difference is larger than twice the residual
// (it can't be a trend then) the layer uses the newest residual alone until the next refresh; when the
// residual isn't finite, nothing. One work-group.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "constants.glsl"

layout(constant_id = 1) const uint kAfter = 0;
layout(constant_id = 2) const uint kHasTypes = 0;

layout(set = 0, binding = 0, std430) buffer State { uint state[]; };
layout(set = 0, binding = 1, std430) readonly buffer Types { uint types[]; };
layout(set = 0, binding = 2, std430) readonly buffer Partials { vec4 partials[]; };

layout(push_constant) uniform Push {
    uint heads;
    uint groups;         // of `partials`
    uint max_usable;     // references the mode can use
} p;

#include "reduce.glsl"

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint lanes = gl_WorkGroupSize.x;
    if (kAfter == 0) {
        for (uint head = lane; head < p.heads; head += lanes) {
            const uint type = kHasTypes != 0 ? types[head] : 0;
            const uint all = p.heads + head;
            if (state[all] > 0 && state[2 * p.heads + head] != type) {
                state[all] = 0;
                state[3 * p.heads + head] += 1;
            }
            state[2 * p.heads + head] = type;
        }
        return;
    }
    vec3 squares = vec3(0.0);
    for (uint i = lane; i < p.groups; i += lanes) squares += partials[i].xyz;
    const float delta_known = workgroup_sum(squares.x);
    const float difference = workgroup_sum(squares.y);
    const float delta_all = workgroup_sum(squares.z);
    const bool finite = delta_all <= 3.0e38 && difference <= 3.0e38;
    const bool trend = difference <= 4.0 * delta_known;  // norms: ||X|| <= 2 ||D||
    for (uint head = lane; head < p.heads; head += lanes) {
        const uint all = finite ? state[p.heads + head] + 1 : 0;
        state[p.heads + head] = all;
        state[head] = min(all, trend ? p.max_usable : 1);
    }
    if (lane == 0) {
        if (!finite) {
            state[4 * p.heads + 1] += 1;
        } else if (!trend) {
            state[4 * p.heads] += 1;
        }
    }
}
