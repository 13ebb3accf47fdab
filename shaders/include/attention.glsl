// What both attention kernels share: attention_tiled.comp, whose work-groups share tiles through shared memory,
// and attention_private.comp, whose invocations keep queries of their own. Constants, bindings, push
// constants, masks and where outputs go; attention_tiled.comp describes them.
#ifndef QUANTSPARSE_ATTENTION_GLSL
#define QUANTSPARSE_ATTENTION_GLSL

layout(constant_id = 1) const uint kDim4 = 16;          // padded_dim / 4
layout(constant_id = 2) const uint kHasBias = 0;
layout(constant_id = 3) const uint kLanes = 16;         // the work-group's width again: sizes arrays
layout(constant_id = 4) const uint kQueries = 16;
#ifdef SPARSE
layout(constant_id = 5) const uint kBlock = 64;         // tokens of a block, a multiple of kTile
layout(constant_id = 6) const uint kOrdered = 0;        // heads have types
layout(constant_id = 13) const uint kHeadMajor = 0;
#endif
#include "attention_operands.glsl"
#if defined(SPARSE) && defined(HALVES)  // lanes change what others have written
layout(set = 0, binding = 3, std430) workgroupcoherent buffer Out { float out_values[]; };
#elif defined(SPARSE)
layout(set = 0, binding = 3, std430) buffer Out { float out_values[]; };
#else
layout(set = 0, binding = 3, std430) writeonly buffer Out { float out_values[]; };
#endif
layout(set = 0, binding = 4, std430) readonly buffer Bias { float bias_values[]; };
#ifdef SPARSE
layout(set = 0, binding = 5, std430) readonly buffer RowPtr { uint row_ptr[]; };
layout(set = 0, binding = 6, std430) readonly buffer Columns { uint columns[]; };
layout(set = 0, binding = 7, std430) readonly buffer Sight { uvec2 sight[]; };
layout(set = 0, binding = 8, std430) readonly buffer Types { uint head_types[]; };
#endif

layout(push_constant) uniform Push {
    uint queries;       // of this dispatch; the first is query_base
    uint query_base;    // `out` is bound from this row on
    uint keys;          // keys beyond are masked
    uint q_stride;      // tokens a head
    uint kv_stride;
    uint head_dim;
    uint out_stride;
    uint first_head;    // of `bias` and `out`; q, k and v are bound from this head on
    uint bias_span;
    float scale;
    uint pad_to;        // columns of `out` after the last head's that are set to zero
    uint list_stride;   // of row_ptr from one head to the next; 0: one list for all
    uint places;        // tokens of a frame
    uint frames;        // sizes of a clip are no constants: CPU drivers compile these kernels for seconds
    uint masked_base;   // BOTH: floats from the output over all keys to the mask's
} p;

#ifdef SPARSE
#define RESIDUAL_CONSTANT 7
#define RESIDUAL_BINDING 9
#include "residual.glsl"
#include "sight.glsl"
#endif

// Entries of `columns`.
const uint kPartial = 0x80000000u;

uint block_of(uint entry) {
    return entry & 0xFFFFFu;
}

/// Whether nothing of the entry's block is left out.
bool is_whole(uint entry) {
    return (entry >> 20 & 255u) == 0;
}

#ifdef SPARSE
/// Of an entry's block the first key that any query attends to, rounded down to a multiple of `step`, and the end.
uvec2 keys_of(uint entry, uint step) {
    const uint first = block_of(entry) * kBlock;
    return first + uvec2((entry >> 20 & 15u) * kBlock / 16 / step * step, kBlock - (entry >> 24 & 15u) * kBlock / 16);
}
#endif

const float kMasked = -3.0e38;

/// The token at a position of a head's order.
uint token_of(uint position, uint head) {
#ifdef SPARSE
    if (kOrdered != 0 && head_types[head] != 0) return position % p.frames * p.places + position / p.frames;
#endif
    return position;
}

/// Where a head's output of a token begins.
uint out_row(uint token, uint position, uint head) {
#ifdef SPARSE
    if (kHeadMajor != 0) return (head * p.q_stride + position) * 4 * kDim4;
#endif
    return (token - p.query_base) * p.out_stride + (p.first_head + head) * p.head_dim;
}

/// Which keys a query sees inside partial blocks, as sees() takes it.
uvec4 load_sight(uint row) {
#ifdef SPARSE
    return uvec4(sight[1 + row], sight[0]);
#else
    return uvec4(0);
#endif
}

/// Scores of keys key0 .. key0 + 3 for a query; kMasked where it does not attend to them.
/// `range`: load_sight(row), used in partial blocks.
vec4 masked_scores(vec4 s, uint key0, bool partial, uvec4 range) {
    const uvec4 key = uvec4(key0, key0 + 1, key0 + 2, key0 + 3);
#ifdef SPARSE
    if (partial) s = mix(vec4(kMasked), s, sees(key, range));
#endif
    return mix(vec4(kMasked), s, lessThan(key, uvec4(p.keys)));
}

/// The relative position bias of keys key0 .. key0 + 3 (clamped to the last one).
vec4 position_bias(uint head, uint row, uint key0) {
    const uint base = (p.first_head + head) * (2 * p.bias_span - 1) + p.bias_span - 1 - row;
    const uint last = p.keys - 1;
    return vec4(bias_values[base + min(key0, last)], bias_values[base + min(key0 + 1, last)],
                bias_values[base + min(key0 + 2, last)], bias_values[base + min(key0 + 3, last)]);
}

#endif
