// Variant TAIL of attention_tiled.comp: blocks of keys that a query's list leaves out, joined to attention over those
// that it has. Of each such block stands its mean key, counted as often as it has keys, with its mean value.
//
//   k, v    fp32 [heads, kv_stride, padded_dim]: means of blocks; `keys` counts them
//   choice  uint32 [heads, blocks, words]: what the lists have (block_choice.glsl)
//   sums    fp32 [heads, q_stride] (attention_sums.glsl)
//   out     [heads, q_stride, padded_dim], changed in place; all queries in one dispatch, as many as there were keys
#ifndef QUANTSPARSE_ATTENTION_TAIL_GLSL
#define QUANTSPARSE_ATTENTION_TAIL_GLSL

layout(set = 0, binding = 5, std430) readonly buffer Choice { uint choice[]; };
layout(set = 0, binding = 6, std430) readonly buffer Sums { float sums[]; };

#define FOR_EACH_PASS const uint pass = 0;
void end_pass() {}
uint base_of_pass(uint pass) { return 0; }
void add_correction(uint lane, uint head, uint query0) {}

bool find_tile(uint tile, out uint first, out bool partial) {
    first = tile * kTile;
    partial = false;
    return true;
}
uint begin_pass(uint head, uint pass) { return (p.keys + kTile - 1) / kTile; }

/// Scores of blocks key0 .. key0 + 3, a multiple of four, for a query: each counts for its keys, those in the list not
/// at all.
void keep_scores(uint own, uint lane, vec4 s, uint key0, uint row, uint head) {
    const uint last = p.keys - 1;
    const uint words = (p.keys + 31) / 32;
    const uint first = min(key0, last) & ~3u;
    const uint bits = choice[((p.first_head + head) * p.keys + row / kBlock) * words + first / 32] >> first % 32;
    for (uint i = 0; i < 4; ++i) {
        const uint key = key0 + i;
        const uint count = key < last ? kBlock : p.queries - last * kBlock;
        s[i] = key > last || (bits >> i & 1u) != 0 ? kMasked : s[i] + log(float(count));
    }
    scores[own][lane] = s;
}

/// What the list's keys have made of a query: as one key of weight 1.
float largest_so_far(uint head, uint row) { return sums[(p.first_head + head) * p.q_stride + row]; }
vec4 output_so_far(uint head, uint row, uint d) {
    const uint base = out_row(row, row, head) + 4 * d;
    vec4 y = vec4(0.0);
    for (uint c = 0; c < 4; ++c) {
        if (4 * d + c < p.head_dim) y[c] = out_values[base + c];
    }
    return y;
}

#endif
