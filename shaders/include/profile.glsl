// What both profiling kernels share: profile_heads.comp, whose work-groups share tiles through shared memory,
// and profile_heads_private.comp, whose invocations keep samples of their own. profile_heads.comp describes
// the constants, bindings and push constants.
#ifndef QUANTSPARSE_PROFILE_GLSL
#define QUANTSPARSE_PROFILE_GLSL

layout(constant_id = 1) const uint kDim4 = 16;     // padded_dim / 4
layout(constant_id = 2) const uint kLanes = 16;    // the work-group's width again: sizes arrays
layout(constant_id = 3) const uint kSamples = 4;   // of a work-group, or of an invocation
layout(constant_id = 4) const uint kFrame0Apart = 0;
layout(constant_id = 5) const uint kSampled4 = 8;  // fours of the outputs' columns that are looked at

#include "attention_operands.glsl"
#include "sight.glsl"
#include "token_order.glsl"
layout(set = 0, binding = 3, std430) readonly buffer Sight { uvec2 sight[]; };
layout(set = 0, binding = 4, std430) writeonly buffer Partials { vec4 partials[]; };

layout(push_constant) uniform Push {
    uint tokens;
    uint places;
    uint q_stride;
    uint kv_stride;
    uint samples;
    uint split_keys;  // keys of a work-group, a multiple of its tile
    float scale;
    uint frames;      // not a constant: CPU drivers compile a kernel for seconds
} p;

const uint kMasks = 3;  // all keys, the spatial mask's, the temporal mask's
const float kMasked = -3.0e38;

uint hash(uint x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/// The query of a sample: one in each of as many equal ranges.
uint sampled_query(uint i) {
    const uint begin = i * p.tokens / p.samples;
    const uint end = (i + 1) * p.tokens / p.samples;
    return min(begin + hash(i) % max(end - begin, 1u), p.tokens - 1);
}

uint place_index(uint token) {
    return position_by_place(token, p.frames, p.places, kFrame0Apart != 0);
}

/// Keys that a query sees in either order: [x, y) frame by frame, [z, w) place by place, beside what all see.
uvec4 seen_ranges(uint query) {
    return uvec4(sight[1 + query], sight[1 + place_index(query)]);
}

/// `score` where the query sees the key, else kMasked. `edges`: sight[0].
vec4 masked(vec4 score, uvec4 key, uvec2 range, uvec2 edges) {
    return mix(vec4(kMasked), score, sees(key, uvec4(range, edges)));
}

/// Which four of the columns is the i-th that is looked at: they are spread evenly.
uint sampled_four(uint i) {
    return i * kDim4 / kSampled4;
}

/// Where the partial result of a sample, this work-group's keys and a mask begins.
uint partial_at(uint head, uint i, uint mask) {
    return (((head * p.samples + i) * gl_NumWorkGroups.z + gl_WorkGroupID.z) * kMasks + mask) * (1 + kSampled4);
}

#endif
